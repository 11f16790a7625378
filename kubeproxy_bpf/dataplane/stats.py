# SPDX-License-Identifier: Apache-2.0
"""Reads what the packet programs counted for each service index: map kpb_stats.

The programs add to the counts and nobody takes them back, but an index goes from one service port
to another. The counts of a new owner begin where those of the last one stood when that was first
seen. Called by ``packet_state`` for the metrics.
"""

from __future__ import annotations

import mmap
from heapq import nlargest
from typing import Generic, Hashable, Mapping, NamedTuple, TypeVar

from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.dataplane.layout import TypeInfo
from kubeproxy_bpf.libbpf.abc import Map

Owner = TypeVar("Owner", bound=Hashable)


class ServiceCounts(NamedTuple):
    """``struct service_stats``, bound by name."""

    flows: int
    """New flows by packet."""
    snat_exhausted: int
    """Refused since no source port was free."""
    rejected: int
    """Refused or dropped for another reason."""

    def __sub__(self, other: ServiceCounts) -> ServiceCounts:
        return ServiceCounts(*(ours - theirs for ours, theirs in zip(self, other, strict=True)))


_NOTHING = ServiceCounts(0, 0, 0)


class ServiceStats(Generic[Owner]):
    """Counts by who owns the index."""

    def __init__(self, source: Map, btf: TypeInfo) -> None:
        self._codec = layout.bind(btf, "service_stats", ServiceCounts)
        self._entries = source.max_entries
        self._memory: mmap.mmap = source.mmap(writable=False)
        self._seen: dict[int, Owner] = {}
        self._base: dict[int, ServiceCounts] = {}

    def top(self, owners: Mapping[int, Owner], count: int) -> list[tuple[Owner, ServiceCounts]]:
        """The busiest, but before all others those that ran out of source ports."""
        counts = self._read(owners)
        busy = ((owners[index], found) for index, found in counts.items() if any(found))
        return nlargest(count, busy, key=lambda item: (item[1].snat_exhausted > 0, item[1].flows))

    def close(self) -> None:
        """Unmap."""
        self._memory.close()

    def _read(self, owners: Mapping[int, Owner]) -> dict[int, ServiceCounts]:
        counts = {}
        size = self._codec.size
        for index in self._counted():
            if index not in owners:
                continue
            raw = self._memory[index * size : (index + 1) * size]
            found = self._codec.decode(raw)
            counts[index] = found - self._base_of(index, owners[index], found)
        return counts

    def _base_of(self, index: int, owner: Owner, found: ServiceCounts) -> ServiceCounts:
        """What the previous owners had; whoever is seen first had all of it."""
        if self._seen.setdefault(index, owner) != owner:
            self._seen[index] = owner
            self._base[index] = found
        return self._base.get(index, _NOTHING)

    def _counted(self) -> list[int]:
        """Indexes where anything but zero stands; most of the map never was written."""
        words = self._codec.size // 8
        with memoryview(self._memory) as raw, raw[: self._entries * self._codec.size] as used:
            with used.cast("Q") as view:
                columns = [view[column::words].tolist() for column in range(words)]
        return [index for index, counts in enumerate(zip(*columns)) if any(counts)]
