# SPDX-License-Identifier: Apache-2.0
"""Reads what the packet programs counted for each service index: map kpb_stats.

The programs add to the counts and nobody takes them back, but an index goes from one service port
to another. The counts of a new owner begin where those of the last one stood when that was first
seen. Called by ``packet_state`` for the metrics.
"""

from __future__ import annotations

import mmap
from heapq import nlargest
from operator import itemgetter
from typing import Generic, Hashable, Iterator, Mapping, NamedTuple, TypeVar

from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.dataplane.layout import TypeInfo
from kubeproxy_bpf.libbpf.abc import Map

Owner = TypeVar("Owner", bound=Hashable)

_Counts = tuple[int, int, int]
_WORD = 8


class ServiceCounts(NamedTuple):
    """``struct service_stats``, bound by name."""

    flows: int
    """New flows by packet."""
    snat_exhausted: int
    """Refused since no source port was free."""
    rejected: int
    """Refused or dropped for another reason."""


class ServiceStats(Generic[Owner]):
    """Counts by who owns the index."""

    def __init__(self, source: Map, btf: TypeInfo) -> None:
        codec = layout.bind(btf, "service_stats", ServiceCounts)
        offsets = {member.name: member.offset for member in btf.structs["service_stats"].members}
        self._columns = [offsets[name] // _WORD for name in ServiceCounts._fields]
        self._words = codec.size // _WORD
        self._size = source.max_entries * codec.size
        self._memory: mmap.mmap = source.mmap(writable=False)
        self._seen: dict[int, Owner] = {}
        self._base: dict[int, _Counts] = {}

    def top(self, owners: Mapping[int, Owner], count: int) -> list[tuple[Owner, ServiceCounts]]:
        """The busiest, but before all others those that ran out of source ports."""
        busy = []
        # Plain tuples: there may be ten thousand, and all but a few are dropped again.
        for index, found in self._counted():
            owner = owners.get(index)
            if owner is None:
                continue
            counts = self._of_owner(index, owner, found)
            if any(counts):
                busy.append((counts[1] > 0, counts[0], owner, counts))
        chosen = nlargest(count, busy, key=itemgetter(0, 1))
        return [(owner, ServiceCounts(*counts)) for _, _, owner, counts in chosen]

    def close(self) -> None:
        """Unmap."""
        self._memory.close()

    def _of_owner(self, index: int, owner: Owner, found: _Counts) -> _Counts:
        """Without what the previous owners had; whoever is seen first had all of it."""
        if self._seen.setdefault(index, owner) != owner:
            self._seen[index] = owner
            self._base[index] = found
        base = self._base.get(index)
        if base is None:
            return found
        return found[0] - base[0], found[1] - base[1], found[2] - base[2]

    def _counted(self) -> Iterator[tuple[int, _Counts]]:
        """Indexes where anything but zero stands; most of the map never was written."""
        with memoryview(self._memory) as raw, raw[: self._size] as used, used.cast("Q") as view:
            columns = [view[column :: self._words].tolist() for column in self._columns]
        return ((i, counts) for i, counts in enumerate(zip(*columns)) if any(counts))
