# SPDX-License-Identifier: Apache-2.0
"""What somebody else wrote to the maps is found and named, and nothing else ever is."""

from __future__ import annotations

from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_bpf.dataplane.fake import FakeDataplane
from kubeproxy_bpf.plan.audit import audit, recheck
from kubeproxy_bpf.plan.findings import Finding, Kind
from kubeproxy_bpf.plan.planner import NOTHING
from kubeproxy_bpf.plan.records import (
    Frontend,
    FrontendKey,
    Record,
    Service,
    SourceRange,
    SourceRangeKey,
    VipFlags,
)
from tests.plan_objects import PACKETS, Bench, desired, ip, prefixes
from tests.property.plan.readers import (
    ADDRESSES,
    FRONTENDS,
    PORTS,
    RANGES,
    World,
    assert_programmed,
    led_to,
    step_from,
    worlds,
)
from tests.property.plan.test_plan_properties import FEW, histories, play

Damage = tuple[str, Any, Kind]
"""Map, key and kind of what a foreign write leaves behind."""

NOWHERE = FrontendKey(ip("10.96.9.9"), 80, 6)


def found(bench: Bench) -> list[Finding]:
    return [f for step in audit(bench.planner, bench.fake.held) for f in step]


def repair(bench: Bench, findings: list[Finding]) -> None:
    bench.planner.doubt(findings)
    plan = bench.plan(NOTHING)
    # What was written over still rests, and nobody is led there.
    assert recheck(bench.planner, bench.fake.held, findings) == []
    assert found(bench) == []
    bench.rest(plan)


def damages(bench: Bench) -> list[Callable[[], Damage]]:
    """All kinds of foreign writes that the maps of a bench have a place for."""
    fake = bench.fake
    made: list[Callable[[], Damage]] = [
        lambda: put(fake.frontends, "frontends", NOWHERE, Frontend(99, 1, 0)),
        lambda: put(fake.vips, "vips", NOWHERE.address, int(VipFlags.CLUSTER_IP)),
        lambda: put(
            fake.source_ranges, "source_ranges", SourceRangeKey(64, 3, bytes(16)), SourceRange(1)
        ),
        lambda: flip_port(fake, 31999),
    ]
    for name in ("frontends", "vips", "source_ranges"):
        table: dict[Any, Any] = getattr(fake, name)
        for key in list(table)[:2]:
            made.append(lambda t=table, n=name, k=key: remove(t, n, k))
            made.append(lambda t=table, n=name, k=key: put(t, n, k, other(t[k])))
    for index in list(dict.fromkeys(entry.service for entry in fake.frontends.values()))[:2]:
        made += [
            lambda i=index: write_word(fake, i, Service(0, 0), Kind.MISSING),
            lambda i=index: write_word(fake, i, Service(63, 7), Kind.DIFFERS),
            lambda i=index: write_record(fake, i),
        ]
        if fake.records[fake.services[index].record].members:
            made.append(lambda i=index: write_slot(fake, i))
            made.append(lambda i=index: write_backend(fake, i))
    return made


def put(table: dict[Any, Any], name: str, key: Any, value: Any) -> Damage:
    kind = Kind.DIFFERS if key in table else Kind.EXTRA
    table[key] = value
    return name, key, kind


def other(value: Any) -> Any:
    if isinstance(value, int):
        return value ^ int(VipFlags.ON_DEVICE)
    return value._replace(**{value._fields[0]: value[0] + 5})


def remove(table: dict[Any, Any], name: str, key: Any) -> Damage:
    if key not in table:  # went in an earlier round
        return put(table, name, key, other(0)) if name == "vips" else _nothing(table, name)
    del table[key]
    return name, key, Kind.MISSING


def _nothing(table: dict[Any, Any], name: str) -> Damage:
    key = next(iter(table))
    del table[key]
    return name, key, Kind.MISSING


def flip_port(fake: FakeDataplane, port: int) -> Damage:
    fake.node_ports[port >> 6] ^= 1 << (port & 63)
    return "node_ports", port >> 6, Kind.EXTRA


def write_word(fake: FakeDataplane, index: int, word: Service, kind: Kind) -> Damage:
    fake.services[index] = word
    return "services", index, kind


def write_record(fake: FakeDataplane, index: int) -> Damage:
    number = fake.services[index].record
    fake.records[number] = Record(9, 1, 1, 0, 0, 5, 0, 0)
    return "records", number, Kind.DIFFERS


def write_slot(fake: FakeDataplane, index: int) -> Damage:
    record = fake.records[fake.services[index].record]
    position = record.slots + record.members - 1
    fake.slots[position] += 1
    return "slots", position, Kind.DIFFERS


def write_backend(fake: FakeDataplane, index: int) -> Damage:
    record = fake.records[fake.services[index].record]
    number = fake.slots[record.slots]
    fake.backends[number] = fake.backends[number]._replace(address=ip("192.0.2.66"))
    return "backends", number, Kind.DIFFERS


@FEW
@given(histories)
def test_what_nobody_touched_gives_no_finding(history: list[World]) -> None:
    """Neither right after a plan, while ids rest, nor after their grace, nor after a restart."""
    bench = Bench(PACKETS)
    for i, world in enumerate(history):
        plan = bench.plan(step_from(history[i - 1] if i else None, world))
        assert found(bench) == []
        bench.planner.release(plan.token)
        assert found(bench) == []
        bench.rest(plan)
        assert found(bench) == []
    bench.restart()
    assert found(bench) == []


@FEW
@given(histories, st.lists(worlds(), min_size=1, max_size=12))
def test_plans_between_two_steps_make_no_finding(history: list[World], more: list[World]) -> None:
    """A step judges by its own moment, whatever was planned and executed since the last one."""
    bench = Bench(PACKETS)
    old = play(bench, history)
    steps = audit(bench.planner, bench.fake.held)
    for world in more:
        assert next(steps, []) == []
        bench.sync(step_from(old, world))
        old = world
    assert [finding for step in steps for finding in step] == []


@FEW
@given(histories, st.data())
def test_every_foreign_write_is_found_named_and_repaired(
    history: list[World], data: st.DataObject
) -> None:
    """Exactly what was written over is found, with its owner; one plan later all is as desired."""
    bench = Bench(PACKETS)
    world = play(bench, history)
    assert world is not None
    places = damages(bench)
    for make in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
        expected = make()
        findings = found(bench)
        assert [(f.map, f.key, f.kind) for f in findings] == [expected]
        assert findings[0].owner in {*world, None}
        if findings[0].kind != Kind.EXTRA and findings[0].map not in ("vips",):
            assert findings[0].owner in world
        assert recheck(bench.planner, bench.fake.held, findings) == findings

        repair(bench, findings)

        assert recheck(bench.planner, bench.fake.held, findings) == []
        assert found(bench) == []
        assert_programmed(bench.fake, world)


FULL: World = {
    PORTS[0]: desired([FRONTENDS[0], FRONTENDS[-1]], ADDRESSES[:3], affinity=5),
    PORTS[1]: desired([FRONTENDS[1], FRONTENDS[-4]], ADDRESSES[2:])._replace(
        source_ranges=prefixes(*RANGES[:2])
    ),
}


def leads(bench: Bench) -> dict[FrontendKey, Any]:
    """Where each frontend leads: its service, and the backends of that."""
    frontends = bench.fake.frontends
    return {
        key: (entry.service, led_to(bench.fake, entry.service)) for key, entry in frontends.items()
    }


def records_read(bench: Bench) -> set[int]:
    """What programs may be reading, as the planner knows it."""
    states = map(bench.planner.state, range(1, bench.planner.services.last_index + 1))
    return {state.record_id for state in states if state is not None}


def overlap(written: range, record: Record) -> bool:
    return written.start < record.slots + record.members and record.slots < written.stop


def full() -> Bench:
    bench = Bench(PACKETS)
    play(bench, [FULL])
    return bench


@pytest.mark.parametrize("number", range(len(damages(full()))))
def test_each_kind_of_foreign_write_is_found(number: int) -> None:
    """None is left to chance."""
    bench = full()
    expected = damages(bench)[number]()
    findings = found(bench)
    assert [(f.map, f.key, f.kind) for f in findings] == [expected]
    repair(bench, findings)
    assert_programmed(bench.fake, FULL)


@FEW
@given(histories, st.data())
def test_a_repair_disturbs_nobody_else(history: list[World], data: st.DataObject) -> None:
    """At every write of it what was not written over leads where it led, and its frontends stay."""
    bench = Bench(PACKETS)
    play(bench, history)
    right = leads(bench)
    data.draw(st.sampled_from(damages(bench)))()
    findings = found(bench)
    hurt = {finding.owner for finding in findings}
    # Of the others, who shares a backend with one that was hurt is hurt too, until it is not.
    now = {k: v for k, v in leads(bench).items() if bench.planner.owner(k) not in hurt}
    read = {record: bench.fake.records[record] for record in records_read(bench)}
    bench.planner.doubt(findings)
    plan = bench.planner.plan(NOTHING)
    assert read.keys().isdisjoint(number for number, _ in plan.records)
    for first, ids in plan.slots:
        written = range(first, first + len(ids))
        assert not any(overlap(written, record) for record in read.values())
    for step in plan.steps():
        bench.fake.do(step)
        after = leads(bench)
        assert all(after[key] in (value, right[key]) for key, value in now.items())
    assert leads(bench) == right
