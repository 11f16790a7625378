# SPDX-License-Identifier: Apache-2.0
"""What counts as a difference, whose it is, and what is done where there is no room."""

from __future__ import annotations

import pytest

from kubeproxy_bpf.errors import MapFull
from kubeproxy_bpf.plan.audit import audit, recheck
from kubeproxy_bpf.plan.findings import Finding, Kind
from kubeproxy_bpf.plan.planner import NOTHING
from kubeproxy_bpf.plan.records import BackendFlags, FrontendKey, Service, VipFlags
from kubeproxy_bpf.plan.writes import Failed
from tests.plan_objects import (
    SMALL,
    Bench,
    cluster_ip,
    complete,
    desired,
    ip,
    node_port,
    port_id,
)

WEB, API = port_id("web"), port_id("api")
WEB_KEY = FrontendKey(*cluster_ip("10.96.0.1")[:3])
WANTED = {
    WEB: desired([cluster_ip("10.96.0.1"), node_port(30080)], ["10.0.0.1", "10.0.0.2"]),
    API: desired([cluster_ip("10.96.0.2")], ["10.0.0.2", "10.0.0.3"]),
}


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.sync(complete(WANTED))
    return made


def found(bench: Bench) -> list[Finding]:
    return [f for step in audit(bench.planner, bench.fake.held) for f in step]


def test_a_write_that_was_refused_is_no_difference(bench: Bench) -> None:
    """The next plan repeats it anyway; it was nobody else's doing."""
    plan = bench.planner.plan(complete({WEB: WANTED[WEB]}))
    key = FrontendKey(*cluster_ip("10.96.0.2")[:3])
    assert key in plan.frontends_removed
    bench.fake.execute(plan)
    bench.fake.frontends[key] = bench.fake.frontends[WEB_KEY]
    assert [(f.key, f.kind) for f in found(bench)] == [(key, Kind.EXTRA)]
    bench.planner.settle(plan, [Failed("frontends", "delete", key, MapFull("frontends", 1))])
    assert found(bench) == []


def test_the_canary_is_nobodys(bench: Bench) -> None:
    """Its address comes and goes without a plan; on an address of ours its flag is a difference."""
    bench.fake.vips[ip("192.0.2.53")] = int(VipFlags.CANARY)
    assert found(bench) == []
    bench.fake.vips[WEB_KEY.address] = int(VipFlags.CANARY)
    assert [(f.map, f.kind, f.owner) for f in found(bench)] == [("vips", Kind.DIFFERS, WEB)]


def test_what_no_program_reaches_is_not_compared(bench: Bench) -> None:
    """Free slots, records and backends may hold what they like, unless one seems to live."""
    bench.fake.slots[200] = 77
    bench.fake.records[50] = bench.fake.records[1]._replace(members=9)
    bench.fake.backends[100] = bench.fake.backends[1]
    assert found(bench) == []


def test_a_backend_that_was_retired_and_lives_again_is_extra(bench: Bench) -> None:
    """Sockets that remember it could go on with it."""
    bench.sync(complete({WEB: WANTED[WEB]}))
    number = next(n for n, b in bench.fake.backends.items() if b.address == ip("10.0.0.3"))
    dead = bench.fake.backends[number]
    bench.fake.backends[number] = dead._replace(flags=int(BackendFlags.LIVE))
    (finding,) = found(bench)
    assert (finding.map, finding.key, finding.kind) == ("backends", number, Kind.EXTRA)
    bench.planner.doubt([finding])
    bench.sync(NOTHING)
    assert bench.fake.backends[number] == dead


def test_a_word_where_nothing_is_published_goes(bench: Bench) -> None:
    """No frontend leads there now, but one may later."""
    bench.sync(complete({WEB: WANTED[WEB]}))
    (index,) = (i for i, word in bench.fake.services.items() if not word.record)
    gone = bench.fake.services[index]
    bench.fake.services[index] = Service(3, 9)
    (finding,) = found(bench)
    assert (finding.map, finding.key, finding.kind) == ("services", index, Kind.EXTRA)
    bench.planner.doubt([finding])
    bench.sync(NOTHING)
    assert bench.fake.services[index] == gone


def test_a_shared_backend_is_published_anew_for_all_that_have_it(bench: Bench) -> None:
    """Both Services get the other id in one plan, with one store each; the old one is retired."""
    number = next(n for n, b in bench.fake.backends.items() if b.address == ip("10.0.0.2"))
    bench.fake.backends[number] = bench.fake.backends[number]._replace(port=1)
    findings = found(bench)
    assert [f.key for f in findings] == [number]
    bench.planner.doubt(findings)
    plan = bench.plan(NOTHING)
    assert len(plan.services) == len(plan.records) == 2
    assert [backend.address for _, backend in plan.backends] == [ip("10.0.0.2")]
    assert all(number not in ids for _, ids in plan.slots)
    assert plan.lost == [], "the endpoints are the same: no socket is aborted"
    bench.rest(plan)
    assert not bench.fake.backends[number].flags & BackendFlags.LIVE


@pytest.mark.parametrize("name", ["slots", "records"])
def test_what_was_written_over_is_not_repaired_in_its_place(bench: Bench, name: str) -> None:
    """A program may be reading it: other record, other slots, and one store that leads there."""
    number = bench.fake.services[1].record
    before = bench.fake.records[number]
    if name == "slots":
        bench.fake.slots[before.slots] = 99
    else:
        bench.fake.records[number] = before._replace(flags=0)
    bench.planner.doubt(found(bench))
    plan = bench.plan(NOTHING)
    ((first, ids),) = plan.slots
    assert first >= before.slots + before.members or first + len(ids) <= before.slots
    ((other, record),) = plan.records
    assert other != number and record == before._replace(slots=first)
    assert {index: word.record for index, word in plan.services.items()} == {1: other}


def test_other_flags_of_a_backend_need_no_other_id(bench: Bench) -> None:
    """They are written in place, as a change of them is."""
    number = next(n for n, b in bench.fake.backends.items() if b.address == ip("10.0.0.2"))
    before = bench.fake.backends[number]
    bench.fake.backends[number] = before._replace(flags=0)
    bench.planner.doubt(found(bench))
    plan = bench.plan(NOTHING)
    assert plan.backends == [(number, before)] and not plan.services


def test_what_finds_no_room_stays_and_is_found_again() -> None:
    """Nothing is taken away from the Service, and the repair succeeds once there is room."""
    bench = Bench(SMALL._replace(slots=5))
    bench.sync(complete(WANTED))
    record = bench.fake.records[bench.fake.services[1].record]
    bench.fake.slots[record.slots] = 99
    findings = found(bench)
    bench.planner.doubt(findings)
    assert bench.plan(NOTHING).empty
    assert recheck(bench.planner, bench.fake.held, findings) == findings
    gone, kept = (WEB, API) if findings[0].owner == API else (API, WEB)
    bench.sync(complete({kept: WANTED[kept]}))
    bench.planner.doubt(found(bench))
    bench.sync(NOTHING)
    assert found(bench) == []


def test_all_frontends_that_are_missing_come_back_without_a_grace_each(bench: Bench) -> None:
    """Their elements are free: a tool that emptied the map is no reason to wait for each."""
    before = dict(bench.fake.frontends)
    bench.fake.frontends.clear()
    bench.planner.doubt(found(bench))
    plan = bench.plan(NOTHING)
    assert len(plan.frontends_added) == len(before) and not plan.frontends_replaced
    assert bench.fake.frontends == before


def test_a_service_port_that_changes_in_the_same_plan_is_as_it_changes(bench: Bench) -> None:
    """A doubt does not bring back what a change takes away."""
    bench.fake.frontends.clear()
    bench.planner.doubt(found(bench))
    after = {WEB: desired([cluster_ip("10.96.0.9")], ["10.0.0.9"])}
    bench.sync(complete(after))
    assert [key.address for key in bench.fake.frontends] == [ip("10.96.0.9")]
    assert found(bench) == []


def test_before_the_first_list_what_was_restored_is_looked_after(bench: Bench) -> None:
    """A restart without API server repairs too; nobody knows yet whose it is."""
    bench.restart()
    record = bench.fake.records[bench.fake.services[1].record]
    bench.fake.slots[record.slots] = 99
    (finding,) = found(bench)
    assert finding.owner is None
    bench.planner.doubt([finding])
    bench.sync(NOTHING)
    assert found(bench) == []
    plan = bench.sync(complete(WANTED))
    assert not plan.services, "it is published as it was"
