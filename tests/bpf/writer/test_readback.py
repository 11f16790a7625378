# SPDX-License-Identifier: Apache-2.0
"""The audit on real maps: what it reads is what stands there, whoever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, AsyncIterator, Callable, Iterator

import pytest

from kubeproxy_bpf.dataplane.hashmaps import HashMap, TrieMap
from kubeproxy_bpf.dataplane.program import Programmer
from kubeproxy_bpf.dataplane.writer import Writer
from kubeproxy_bpf.model.types import Desired
from kubeproxy_bpf.plan.findings import Kind
from kubeproxy_bpf.plan.planner import NOTHING
from kubeproxy_bpf.plan.records import Frontend, FrontendKey, Service
from tests.plan_objects import complete, desired, ip, load_balancer, node_port, port_id, prefixes

from .test_source_ranges import Ranges, ranges_image  # noqa: F401

pytestmark = pytest.mark.root

WEB = port_id("web")
VIP = load_balancer("198.51.100.1")
KEY = FrontendKey(*VIP[:3])


@pytest.fixture
def ranges(ranges_image: Path) -> Iterator[Ranges]:  # noqa: F811
    made = Ranges(ranges_image)
    yield made
    made.close()


@pytest.fixture
async def programmer(kernel: Any, ranges: Ranges) -> AsyncIterator[Programmer]:
    """One Service with everything that a Service can have, on real maps."""
    maps = {**kernel.maps, "kpb_source_ranges": ranges.map}
    writer = Writer(maps, kernel.btf, packet_btf=ranges.btf)
    made = Programmer(writer)
    await made.start()
    await made.apply(complete({WEB: wanted()}))
    await made.settled()
    yield made
    await made.close()
    writer.close()


def wanted() -> Desired:
    served = desired([VIP, node_port(30080)], ["10.244.1.1", "10.244.1.2", "10.244.1.3"])
    return served._replace(source_ranges=prefixes("192.0.2.0/24", "192.0.0.0/8"))


def maps_of(programmer: Programmer) -> Any:
    return programmer._dataplane._maps  # type: ignore[attr-defined]


async def test_nothing_differs_where_nobody_else_wrote(programmer: Programmer) -> None:
    """Neither before nor after other plans, on arrays, hashes and the trie."""
    assert await programmer.audit() == []
    await programmer.apply(complete({WEB: wanted()._replace(affinity_timeout_s=7)}))
    assert await programmer.audit() == []
    await programmer.apply(complete({}))
    await programmer.settled()
    await programmer.apply(NOTHING)
    assert await programmer.audit() == []


def damages() -> dict[str, Callable[[Any], None]]:
    other = Frontend(60, 3, 0)
    return {
        "frontends missing": lambda maps: maps.frontends.remove([KEY]),
        "frontends differs": lambda maps: maps.frontends.put([(KEY, other)]),
        "frontends extra": lambda maps: maps.frontends.put([(KEY._replace(port=1), other)]),
        "vips missing": lambda maps: maps.vips.remove([KEY.address]),
        "vips differs": lambda maps: maps.vips.put([(KEY.address, 1)]),
        "vips extra": lambda maps: maps.vips.put([(ip("203.0.113.5"), 1)]),
        "services differs": lambda maps: maps.publish(1, Service(7, 7)),
        "services missing": lambda maps: maps.publish(1, Service(0, 0)),
        "records missing": lambda maps: write(maps.records, 1, maps.records[0]),
        "records differs": lambda maps: write(maps.records, 1, maps.records[1]._replace(flags=0)),
        "slots missing": lambda maps: maps.slots._view.__setitem__(2 * maps.slots._step, 0),
        "slots differs": lambda maps: maps.slots._view.__setitem__(2 * maps.slots._step, 9),
        "backends missing": lambda maps: write(maps.backends, 2, maps.backends[0]),
        "backends differs": lambda maps: write(maps.backends, 2, maps.backends[2]._replace(port=1)),
        "node_ports missing": lambda maps: maps.node_ports.store(30080 >> 6, 0),
        "node_ports extra": lambda maps: maps.node_ports.store(3, 1),
        "source_ranges missing": lambda maps: maps.source_ranges.remove(
            list(maps.source_ranges.read())[-1:]
        ),
    }


def write(array: Any, index: int, record: Any) -> None:
    array[index] = record


@pytest.mark.parametrize("name", damages())
async def test_what_somebody_wrote_is_found_and_gone(programmer: Programmer, name: str) -> None:
    """One finding of this map and kind with its owner, no other; the repair leaves none."""
    damages()[name](maps_of(programmer))

    (finding,) = await programmer.audit()

    assert f"{finding.map} {finding.kind.value}" == name
    assert finding.owner == WEB or finding.kind == Kind.EXTRA
    assert await programmer.repair([finding]) == []
    assert await programmer.audit() == []
    await programmer.settled()
    assert await programmer.audit() == []


async def test_a_trie_is_asked_for_the_very_prefix(programmer: Programmer) -> None:
    """A shorter one that would match too does not stand for one that is gone."""
    table: TrieMap[Any, Any] = maps_of(programmer).source_ranges
    longer, shorter = sorted(table.read(), reverse=True)
    table.remove([longer])
    assert table.lookup([longer, shorter]).keys() == {shorter}


async def test_a_table_comes_in_parts(programmer: Programmer) -> None:
    """All of it, and each entry once, whatever the size of a part."""
    table: HashMap[Any, Any] = maps_of(programmer).vips
    table.put([(ip(f"203.0.113.{i}"), 1) for i in range(50)])
    parts = list(table.parts(8))
    assert len(parts) > 4
    assert sorted(key for part in parts for key, _ in part) == sorted(table.read())
