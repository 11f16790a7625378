# SPDX-License-Identifier: Apache-2.0
"""Takes out of a queue map what the programs put there; only tests do that."""

from __future__ import annotations

import ctypes

from kubeproxy_bpf.libbpf import BpfMap

_libbpf = ctypes.CDLL("libbpf.so.1")


def pop_all(queue: BpfMap) -> list[bytes]:
    """The elements, in their order; the queue is empty then."""
    found, raw = [], ctypes.create_string_buffer(queue.value_size)
    while not _libbpf.bpf_map_lookup_and_delete_elem(queue.fd, None, raw):
        found.append(raw.raw)
    return found
