# SPDX-License-Identifier: Apache-2.0
"""Counts of services, read from the maps that the programs write, and begun anew."""

from __future__ import annotations

import struct
from typing import Iterator

import pytest
import structlog

from kubeproxy_bpf.dataplane.stats import (
    CountsToClear,
    ServiceCounts,
    StatsMap,
    TrafficMap,
    busiest,
)
from kubeproxy_bpf.libbpf import BpfMap, Btf, MapFlag, MapType
from kubeproxy_bpf.libbpf.kernel import possible_cpus

pytestmark = pytest.mark.root

ENTRIES = 1000
CPUS = possible_cpus()


class Programs:
    """Counts as the programs do."""

    def __init__(self, stats: BpfMap, traffic: BpfMap) -> None:
        self.stats = stats
        self.traffic = traffic

    def count(self, index: int, flows: int = 0, exhausted: int = 0, rejected: int = 0) -> None:
        key = struct.pack("=I", index)
        raw = self.stats.lookup(key)
        assert raw is not None
        counts = zip(struct.unpack("=3Q", raw), (flows, exhausted, rejected))
        self.stats.update(key, struct.pack("=3Q", *map(sum, counts)))

    def pass_by(self, index: int, *by_cpu: tuple[int, int, int]) -> None:
        """Connections, packets and bytes that the first processors, and the last one, counted."""
        idle = [(0, 0, 0)] * (CPUS - len(by_cpu))
        values = [*by_cpu[:-1], *idle, by_cpu[-1]]
        raw = b"".join(struct.pack("=3Q", *counts) for counts in values)
        self.traffic.update(struct.pack("=I", index), raw)


@pytest.fixture
def programs(packet_btf: Btf) -> Iterator[Programs]:
    size = packet_btf.structs["service_stats"].size
    each = packet_btf.structs["service_traffic"].size
    flag = int(MapFlag.MMAPABLE)
    with (
        BpfMap.create(MapType.ARRAY, "kpbt_stats", 4, size, ENTRIES, flag) as stats,
        BpfMap.create(MapType.PERCPU_ARRAY, "kpbt_traffic", 4, each, ENTRIES) as traffic,
    ):
        yield Programs(stats, traffic)


@pytest.fixture
def stats(programs: Programs, packet_btf: Btf) -> Iterator[StatsMap]:
    read = StatsMap(programs.stats, packet_btf)
    yield read
    read.close()


@pytest.fixture
def traffic(programs: Programs, packet_btf: Btf) -> TrafficMap:
    return TrafficMap(programs.traffic, packet_btf)


def test_the_busiest_come_first_and_the_rest_not_at_all(
    programs: Programs, stats: StatsMap
) -> None:
    """A service port that ran out of source ports is shown before any other, however idle."""
    for index, flows in ((1, 5), (2, 50), (5, 7), (ENTRIES - 1, 500)):
        programs.count(index, flows)
    programs.count(3, exhausted=1)
    owners = {1: "a", 2: "b", 3: "c", 4: "idle", ENTRIES - 1: "z"}

    assert busiest(owners, stats, None, 3) == [
        ("c", ServiceCounts(0, 1, 0)),
        ("z", ServiceCounts(500, 0, 0, 500)),
        ("b", ServiceCounts(50, 0, 0, 50)),
    ]
    assert len(busiest(owners, stats, None, 100)) == 4
    assert not busiest(owners, stats, None, 0)


def test_processors_are_added_up(programs: Programs, traffic: TrafficMap) -> None:
    """Each counts for itself; the first and the last entry are read as any other."""
    programs.pass_by(0, (1, 1, 1))
    programs.pass_by(7, (1, 20, 3000), (10, 200, 30000))
    programs.pass_by(ENTRIES - 1, (0, 0, 1 << 40), (0, 0, 1 << 40))

    assert traffic.read(ENTRIES) == {
        0: (1, 1, 1),
        7: (11, 220, 33000),
        ENTRIES - 1: (0, 0, 1 << 41),
    }


def test_batches_of_any_size_read_the_same(
    programs: Programs, traffic: TrafficMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many processors a system call brings but a few entries."""
    for index in range(ENTRIES):
        programs.pass_by(index, (index, 0, 0))
    monkeypatch.setattr("kubeproxy_bpf.dataplane.stats._BATCH_BYTES", 7 * 24 * CPUS)

    assert traffic.read(ENTRIES) == {index: (index, 0, 0) for index in range(1, ENTRIES)}
    assert traffic.read(20).keys() < set(range(30))
    CountsToClear({"kpb_traffic": programs.traffic}).clear(range(1, 500))
    assert traffic.read(ENTRIES).keys() == set(range(500, ENTRIES))


def test_sockets_make_a_service_busy_too(
    programs: Programs, stats: StatsMap, traffic: TrafficMap
) -> None:
    """What counts is all connections; of sockets alone where there are no packet programs."""
    programs.count(1, flows=5)
    programs.pass_by(1, (2, 30, 4000), (1, 3, 400))
    programs.pass_by(2, (9, 0, 0))
    owners = {1: "a", 2: "b"}

    assert busiest(owners, stats, traffic, 9) == [
        ("b", ServiceCounts(0, 0, 0, 9)),
        ("a", ServiceCounts(5, 0, 0, 8, 33, 4400)),
    ]
    assert busiest(owners, None, traffic, 1) == [("b", ServiceCounts(0, 0, 0, 9))]


def test_counts_begin_anew_where_they_are_cleared(
    programs: Programs, stats: StatsMap, traffic: TrafficMap
) -> None:
    """On all processors, and for no other index."""
    for index in (1, 2, 3):
        programs.count(index, 5, 1, 2)
        programs.pass_by(index, (1, 2, 3), (4, 5, 6))
    maps = {"kpb_stats": programs.stats, "kpb_traffic": programs.traffic}
    CountsToClear(maps).clear([3, 1])

    assert stats.read(ENTRIES) == {2: (5, 1, 2)}
    assert not stats.read(2)
    assert traffic.read(ENTRIES) == {2: (5, 7, 9)}


def test_a_map_for_nobody_is_left_alone(programs: Programs, packet_btf: Btf) -> None:
    """Without --bpf-service-traffic the map has one entry, whatever the number of Services."""
    size = packet_btf.structs["service_traffic"].size
    with BpfMap.create(MapType.PERCPU_ARRAY, "kpbt_traffic", 4, size, 1) as smallest:
        with structlog.testing.capture_logs() as logs:
            CountsToClear({"kpb_traffic": smallest}).clear([5])
            CountsToClear({}).clear([5])
    assert not logs


def test_counts_that_stay_end_nothing(programs: Programs, traffic: TrafficMap) -> None:
    """A map that the kernel does not let us write is told of; the other is cleared all the same."""
    programs.count(1, 5)
    programs.pass_by(1, (1, 2, 3))
    programs.stats.freeze()
    with structlog.testing.capture_logs() as logs:
        CountsToClear({"kpb_stats": programs.stats, "kpb_traffic": programs.traffic}).clear([1])

    assert ["counts_not_cleared"] == [log["event"] for log in logs]
    assert not traffic.read(ENTRIES)
