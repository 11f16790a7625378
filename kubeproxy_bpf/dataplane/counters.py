# SPDX-License-Identifier: Apache-2.0
"""Reads what the programs counted of their decisions. Called by ``instance``."""

from __future__ import annotations

import struct

from kubeproxy_bpf.libbpf import Btf
from kubeproxy_bpf.libbpf.abc import Map

_ENUM = "counter"
_PREFIX = "COUNT_"


def read_counters(counters: Map, btf: Btf) -> dict[str, int]:
    """Sums over all processors, by the names of ``enum counter``."""
    counts = {}
    for name, number in btf.enums[_ENUM].values.items():
        per_cpu = counters.lookup(struct.pack("=I", number))
        if per_cpu is not None and number:
            counts[name.removeprefix(_PREFIX).lower()] = sum(memoryview(per_cpu).cast("Q"))
    return counts
