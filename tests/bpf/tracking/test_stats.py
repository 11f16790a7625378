# SPDX-License-Identifier: Apache-2.0
"""Counts of services, read from the map that the programs write."""

from __future__ import annotations

import struct
from typing import Iterator

import pytest

from kubeproxy_bpf.dataplane.stats import ServiceCounts, ServiceStats
from kubeproxy_bpf.libbpf import BpfMap, Btf, MapFlag, MapType

pytestmark = pytest.mark.root

ENTRIES = 1000


class Programs:
    """Counts as the programs do."""

    def __init__(self, map: BpfMap) -> None:
        self.map = map

    def count(self, index: int, flows: int = 0, exhausted: int = 0, rejected: int = 0) -> None:
        key = struct.pack("=I", index)
        raw = self.map.lookup(key)
        assert raw is not None
        counts = zip(struct.unpack("=3Q", raw), (flows, exhausted, rejected))
        self.map.update(key, struct.pack("=3Q", *map(sum, counts)))


@pytest.fixture
def programs(packet_btf: Btf) -> Iterator[Programs]:
    size = packet_btf.structs["service_stats"].size
    with BpfMap.create(
        MapType.ARRAY, "kpbt_stats", 4, size, ENTRIES, int(MapFlag.MMAPABLE)
    ) as real:
        yield Programs(real)


@pytest.fixture
def stats(programs: Programs, packet_btf: Btf) -> Iterator[ServiceStats[str]]:
    read: ServiceStats[str] = ServiceStats(programs.map, packet_btf)
    yield read
    read.close()


def test_the_busiest_come_first_and_the_rest_not_at_all(
    programs: Programs, stats: ServiceStats[str]
) -> None:
    """A service port that ran out of source ports is shown before any other, however idle."""
    for index, flows in ((1, 5), (2, 50), (ENTRIES - 1, 500)):
        programs.count(index, flows)
    programs.count(3, exhausted=1)
    owners = {1: "a", 2: "b", 3: "c", 4: "idle", ENTRIES - 1: "z"}

    assert stats.top(owners, 3) == [
        ("c", ServiceCounts(0, 1, 0)),
        ("z", ServiceCounts(500, 0, 0)),
        ("b", ServiceCounts(50, 0, 0)),
    ]
    assert len(stats.top(owners, 100)) == 4
    assert not stats.top(owners, 0)


def test_a_new_owner_of_an_index_begins_at_zero(
    programs: Programs, stats: ServiceStats[str]
) -> None:
    """What was counted for a Service that went is not the next one's."""
    programs.count(1, 5, 0, 2)
    assert stats.top({1: "old"}, 9) == [("old", ServiceCounts(5, 0, 2))]
    assert not stats.top({}, 9)
    assert not stats.top({1: "new"}, 9)
    programs.count(1, 3)

    assert stats.top({1: "new"}, 9) == [("new", ServiceCounts(3, 0, 0))]
