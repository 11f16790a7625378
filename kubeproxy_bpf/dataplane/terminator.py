# SPDX-License-Identifier: Apache-2.0
"""Aborts UDP sockets that stay connected to backends which serve them no longer.

A connected UDP socket passes no hook again: without this it would speak to a removed pod for ever.
In each network namespace an iterator program looks at every UDP socket and decides from the same
maps as the hooks; older kernels destroy by the addresses of the removed backends instead. The
program's next call fails with ECONNABORTED and it resolves anew. Unconnected sockets and TCP are
none of its business. Called after a plan that removed UDP backends, in a thread.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Collection, Iterable, Mapping, NamedTuple, Self

import structlog

from kubeproxy_bpf.dataplane.netns import all_namespaces, run_in_each
from kubeproxy_bpf.dataplane.sock_diag import Peer, abort_connected_udp
from kubeproxy_bpf.libbpf import BpfMap, BpfObject, Closing, LibbpfError

_PROGRAM = "kpb_sock_abort"

_log = structlog.get_logger(__name__)


class Aborted(NamedTuple):
    """The outcome of a run."""

    sockets: int
    unreachable: int
    """Network namespaces that could not be entered or looked through."""


class Terminator(Closing):
    """The iterator program, or its replacement."""

    def __init__(self, bpf_object: BpfObject | None) -> None:
        self._object = bpf_object

    @classmethod
    def load(cls, object_path: Path, maps: Mapping[str, BpfMap]) -> Self:
        """Load the program over the maps of the datapath; do without it if the kernel must."""
        bpf_object = BpfObject.open(object_path)
        try:
            for name, item in bpf_object.maps.items():
                if name in maps:
                    item.max_entries = maps[name].max_entries
                    item.reuse(maps[name])
            bpf_object.load()
        except LibbpfError as error:
            _log.warning("socket_iterator_unused", error=str(error), instead="sock_diag")
            bpf_object.close()
            return cls(None)
        except BaseException:
            bpf_object.close()
            raise
        return cls(bpf_object)

    @property
    def by_iterator(self) -> bool:
        """Whether the kernel has what the program needs."""
        return self._object is not None

    def run(
        self, removed: Collection[Peer] = (), netns_paths: Iterable[Path] | None = None
    ) -> Aborted:
        """Abort in all namespaces, or in those given.

        ``removed`` names the backends that went away; only the replacement needs it, and does
        nothing without.
        """
        if not self._object and not removed:
            return Aborted(0, 0)
        paths = all_namespaces() if netns_paths is None else netns_paths
        function = self._iterate if self._object else partial(abort_connected_udp, removed)
        counts, unreachable = run_in_each(paths, function)
        return Aborted(sum(counts), unreachable)

    def close(self) -> None:
        if self._object:
            self._object.close()

    def _iterate(self) -> int:
        assert self._object
        return len(self._object.programs[_PROGRAM].run_iter())
