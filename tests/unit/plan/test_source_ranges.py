# SPDX-License-Identifier: Apache-2.0
"""Who may use a load-balancer address: never more than one owner's clients, and never everybody."""

from __future__ import annotations

import pytest

from kubeproxy_bpf.model.types import Changes, Desired, FrontendSpec, Prefix
from kubeproxy_bpf.plan.planner import NOTHING
from kubeproxy_bpf.plan.records import FrontendFlags, FrontendKey, SourceRange, SourceRangeKey
from kubeproxy_bpf.plan.writes import Plan
from tests.plan_objects import (
    PACKETS,
    SMALL,
    Bench,
    cluster_ip,
    complete,
    desired,
    ip,
    load_balancer,
    port_id,
    prefixes,
)

WEB, API = port_id("web"), port_id("api")
VIP = load_balancer("198.51.100.1")
OFFICE, HOME, LAB = "192.0.2.0/24", "203.0.113.0/24", "10.0.0.0/8"
OFFICE_KEY = SourceRangeKey(32 + 96 + 24, 1, ip("192.0.2.0"))


@pytest.fixture
def bench() -> Bench:
    return Bench(PACKETS)


def balanced(*ranges: str, frontends: tuple[FrontendSpec, ...] = (VIP,)) -> Desired:
    """A service port with one load-balancer address and these ranges."""
    return desired(frontends, ["10.244.1.1"])._replace(source_ranges=prefixes(*ranges))


def let_in(bench: Bench, frontend: FrontendSpec = VIP) -> set[str]:
    """The ranges from which a frontend is reached."""
    found = bench.fake.frontends[FrontendKey(*frontend[:3])]
    assert found.flags & FrontendFlags.SOURCE_RANGES
    prefix_of = {p: text for text in (OFFICE, HOME, LAB) for p in prefixes(text)}
    return {
        prefix_of[Prefix(key.source, key.prefix_bits - 32)]
        for key in bench.fake.source_ranges
        if key.service == found.service
    }


def order(plan: Plan) -> list[str]:
    return [f"{step.map} {step.action}" for step in plan.steps()]


def test_a_key_is_the_service_and_a_prefix_of_the_source(bench: Bench) -> None:
    """The bits of the key count from the service on; an IPv4 source is v4-mapped."""
    bench.sync(complete({WEB: balanced(OFFICE)}))

    assert {OFFICE_KEY: SourceRange(1)} == bench.fake.source_ranges


def test_ranges_stand_before_their_frontend_and_go_after_it(bench: Bench) -> None:
    """At no moment does a frontend lack its ranges."""
    plan = bench.sync(complete({WEB: balanced(OFFICE)}))
    assert order(plan).index("source_ranges set") < order(plan).index("services set")

    plan = bench.sync(Changes({WEB: None}, {}))
    assert order(plan).index("frontends delete") < order(plan).index("source_ranges delete")
    assert {} == bench.fake.source_ranges


def test_a_change_writes_only_the_ranges_that_differ(bench: Bench) -> None:
    """Who stays in is not shut out for a moment."""
    bench.sync(complete({WEB: balanced(OFFICE, HOME)}))
    plan = bench.sync(Changes({WEB: balanced(HOME, LAB)}, {}))

    assert ["source_ranges set", "source_ranges delete"] == order(plan)
    assert {HOME, LAB} == let_in(bench)


def test_ranges_that_are_lifted_go_after_the_frontend_asks_for_none(bench: Bench) -> None:
    """Opening a Service to everybody shuts nobody out on the way."""
    bench.sync(complete({WEB: balanced(OFFICE)}))
    free = load_balancer("198.51.100.1", ranges=False)
    plan = bench.sync(Changes({WEB: balanced(frontends=(free,))}, {}))

    assert order(plan).index("frontends set") < order(plan).index("source_ranges delete")


def test_an_heir_inherits_the_index_but_not_the_ranges(bench: Bench) -> None:
    """Clients of a deleted Service never reach the one that took over its address."""
    bench.sync(complete({WEB: balanced(OFFICE, HOME)}))
    index = bench.fake.frontends[FrontendKey(*VIP[:3])].service
    plan = bench.sync(Changes({WEB: None, API: balanced(HOME)}, {}))

    assert bench.fake.frontends[FrontendKey(*VIP[:3])].service == index
    assert order(plan).index("source_ranges delete") < order(plan).index("services set")
    assert {HOME} == let_in(bench)


def test_an_index_left_by_a_crash_has_no_ranges_for_the_next(bench: Bench) -> None:
    """Ranges without frontends, from a plan that was cut off, let nobody in to a new owner."""
    stray = SourceRangeKey(32 + 96 + 8, 1, ip("10.0.0.0"))
    bench.fake.source_ranges[stray] = SourceRange(1)
    bench.restart()
    plan = bench.planner.plan(Changes({WEB: balanced(OFFICE)}, {}))

    assert [stray] == plan.ranges_revoked


def test_a_restart_takes_over_ranges_and_drops_stale_ones_when_complete(bench: Bench) -> None:
    """What is right is not written again; what nobody owns goes with the first complete changes."""
    bench.sync(complete({WEB: balanced(OFFICE)}))
    stray = SourceRangeKey(32 + 96 + 8, 9, ip("10.0.0.0"))
    bench.fake.source_ranges[stray] = SourceRange(1)
    bench.restart()
    assert bench.planner.plan(Changes({WEB: balanced(OFFICE)}, {})).empty

    plan = bench.planner.plan(complete({WEB: balanced(OFFICE)}))
    assert (["source_ranges delete"], [stray]) == (order(plan), plan.ranges_removed)


def test_without_room_nobody_new_comes_in_and_it_heals() -> None:
    """A Service whose ranges find no room is closed, not open, and the others are served."""
    bench = Bench(PACKETS._replace(source_ranges=1))
    bench.sync(complete({WEB: balanced(OFFICE)}))
    other = load_balancer("198.51.100.2")
    plan = bench.sync(Changes({API: balanced(HOME, frontends=(other,))}, {}))
    assert [(API, "source_ranges")] == plan.unfit
    assert (set(), {OFFICE}) == (let_in(bench, other), let_in(bench))

    bench.sync(Changes({WEB: None}, {}))
    assert {HOME} == let_in(bench, other)
    assert () == bench.planner.waiting


def test_a_service_that_gets_ranges_without_room_is_closed() -> None:
    """An open Service does not stay open because its new ranges do not fit."""
    bench = Bench(PACKETS._replace(source_ranges=1))
    free = load_balancer("198.51.100.1", ranges=False)
    bench.sync(complete({WEB: balanced(frontends=(free,))}))
    plan = bench.sync(Changes({WEB: balanced(OFFICE, HOME)}, {}))

    assert [(WEB, "source_ranges")] == plan.unfit
    assert set() == let_in(bench)


def test_a_refused_range_is_repeated(bench: Bench) -> None:
    """Until the kernel takes it, its clients are shut out; the index is not given away."""
    plan = bench.planner.plan(complete({WEB: balanced(OFFICE)}))
    bench.fake.fail_at = order(plan).index("source_ranges set")
    bench.planner.settle(plan, bench.fake.execute(plan).failed)
    assert set() == let_in(bench) and bench.planner.owes

    bench.sync(NOTHING)
    assert {OFFICE} == let_in(bench)


def test_without_a_packet_path_ranges_are_reported_and_the_rest_is_served() -> None:
    """Nobody could look at them: the address stays closed, the cluster IP works."""
    bench = Bench(SMALL)
    plan = bench.sync(complete({WEB: balanced(OFFICE, frontends=(cluster_ip("10.96.0.1"), VIP))}))

    assert [(WEB, "source_ranges")] == plan.unfit
    assert FrontendKey(ip("10.96.0.1"), 80, 6) in bench.fake.frontends
    assert set() == let_in(bench)


def test_after_a_restart_old_ranges_go_before_anything_is_published(bench: Bench) -> None:
    """An index is known by its frontends alone: whose ranges it has is not known."""
    bench.sync(complete({WEB: balanced(OFFICE, HOME)}))
    bench.restart()
    plan = bench.sync(complete({API: balanced(HOME, LAB)}))

    assert [OFFICE_KEY] == plan.ranges_revoked
    assert {HOME, LAB} == let_in(bench)
