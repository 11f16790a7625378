# SPDX-License-Identifier: Apache-2.0
"""What the programs counted for each service index: kpb_stats, and kpb_traffic where it is wanted.

The packet programs add to the first; those of sockets and of packets to the second, each processor
for itself. They take nothing back, but an index goes from one service port to another: the writer
begins anew with the counts of an index that it gives to a new owner. Read by ``service_counts``
for the metrics.
"""

from __future__ import annotations

import mmap
from array import array
from heapq import nlargest
from operator import itemgetter
from typing import Hashable, Iterator, Mapping, NamedTuple, Sequence, TypeVar

import structlog

from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.dataplane.layout import TypeInfo
from kubeproxy_bpf.libbpf import LibbpfError
from kubeproxy_bpf.libbpf.abc import Map

_log = structlog.get_logger(__name__)

Owner = TypeVar("Owner", bound=Hashable)

_Counts = tuple[int, ...]
_WORD = 8
_BATCH_BYTES = 1 << 20
_NONE = (0, 0, 0)


class ServiceStats(NamedTuple):
    """``struct service_stats``, bound by name."""

    flows: int
    """New flows by packet."""
    snat_exhausted: int
    """Refused since no source port was free."""
    rejected: int
    """Refused or dropped for another reason."""


class ServiceTraffic(NamedTuple):
    """``struct service_traffic``, bound by name."""

    connections: int
    """Of sockets alone."""
    packets: int
    bytes: int


class ServiceCounts(NamedTuple):
    """All that is known of one service port; 0 what nobody counts."""

    flows: int
    snat_exhausted: int
    rejected: int
    connections: int = 0
    """Of sockets and by packet."""
    packets: int = 0
    bytes: int = 0


class StatsMap:
    """Reads kpb_stats through its memory mapping."""

    def __init__(self, source: Map, btf: TypeInfo) -> None:
        self._columns = _columns(btf, "service_stats", ServiceStats)
        self._words = source.value_size // _WORD
        self._max_entries = source.max_entries
        self._memory: mmap.mmap = source.mmap(writable=False)

    def read(self, stop: int) -> dict[int, _Counts]:
        """Counts by index below ``stop`` where anything but zero stands."""
        # Plain tuples: there may be ten thousand, and all but a few are dropped again.
        length = min(stop, self._max_entries) * self._words * _WORD
        with memoryview(self._memory) as raw, raw[:length] as used, used.cast("Q") as view:
            columns = [view[column :: self._words].tolist() for column in self._columns]
        return {i: counts for i, counts in enumerate(zip(*columns)) if any(counts)}

    def close(self) -> None:
        """Unmap."""
        self._memory.close()


class TrafficMap:
    """Reads kpb_traffic in batches, and adds up what the processors counted."""

    def __init__(self, source: Map, btf: TypeInfo) -> None:
        self._source = source
        self._columns = _columns(btf, "service_traffic", ServiceTraffic)
        self._stride = source.value_size // _WORD
        """Words from one processor to the next."""
        self._words = source.value_bytes // _WORD

    def read(self, stop: int) -> dict[int, _Counts]:
        """Counts by index below ``stop`` where anything but zero stands."""
        counted: dict[int, _Counts] = {}
        first = 0
        for _, values, count in self._source.batches(min(stop, _at_once(self._source))):
            sums = zip(*(self._sums(values, column) for column in self._columns))
            counted.update((i, counts) for i, counts in enumerate(sums, first) if any(counts))
            first += count
            if first >= stop:
                break
        return counted

    def _sums(self, values: bytes, column: int) -> Iterator[int]:
        with memoryview(values) as raw, raw.cast("Q") as view:
            starts = range(column, self._words, self._stride)
            per_cpu = [view[start :: self._words].tolist() for start in starts]
        return map(sum, zip(*per_cpu))


def busiest(
    owners: Mapping[int, Owner], stats: StatsMap | None, traffic: TrafficMap | None, count: int
) -> list[tuple[Owner, ServiceCounts]]:
    """Who has most new flows and connections, but before all those that ran out of source ports."""
    # Indexes are given out from below: most of the maps never was written.
    stop = max(owners, default=0) + 1
    by_packet = stats.read(stop) if stats is not None else {}
    all_traffic = traffic.read(stop) if traffic is not None else {}
    busy = []
    for index in by_packet.keys() | all_traffic.keys():
        owner = owners.get(index)
        if owner is None:
            continue
        flows, exhausted, rejected = by_packet.get(index, _NONE)
        sockets, packets, size = all_traffic.get(index, _NONE)
        counts = (flows, exhausted, rejected, flows + sockets, packets, size)
        busy.append((exhausted > 0, flows + sockets, owner, counts))
    chosen = nlargest(count, busy, key=itemgetter(0, 1))
    return [(owner, ServiceCounts(*counts)) for _, _, owner, counts in chosen]


class CountsToClear:
    """The counts of all indexes, for the writer."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        names = ("kpb_stats", "kpb_traffic")
        self._maps = [maps[name] for name in names if name in maps]

    def clear(self, indexes: Sequence[int]) -> None:
        """Begin anew for these indexes. What old flows still count is the new owner's."""
        for cleared in self._maps:
            fitting = [index for index in indexes if index < cleared.max_entries]
            try:
                _write_zeros(cleared, fitting)
            except LibbpfError as error:  # no reason not to serve
                _log.warning("counts_not_cleared", map=cleared.name, error=str(error))


def _write_zeros(cleared: Map, indexes: Sequence[int]) -> None:
    step = _at_once(cleared)
    for start in range(0, len(indexes), step):
        chunk = indexes[start : start + step]
        keys = array("I", chunk).tobytes()
        cleared.update_batch(keys, bytes(cleared.value_bytes * len(chunk)), len(chunk))


def _at_once(source: Map) -> int:
    """Elements in one system call: with many processors they are large."""
    return max(_BATCH_BYTES // source.value_bytes, 1)


def _columns(btf: TypeInfo, struct: str, record: type[tuple[int, ...]]) -> list[int]:
    """Where the fields stand, in words."""
    layout.bind(btf, struct, record)
    offsets = {member.name: member.offset for member in btf.structs[struct].members}
    return [offsets[name] // _WORD for name in record._fields]  # type: ignore[attr-defined]
