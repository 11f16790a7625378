# SPDX-License-Identifier: Apache-2.0
"""Rules of the planner, one by one; the properties that hold for all histories are in property."""

from __future__ import annotations

import pytest

from kubeproxy_bpf.dataplane.trace import HOST, POD, Reason
from kubeproxy_bpf.errors import MapFull
from kubeproxy_bpf.model.types import Changes, Desired
from kubeproxy_bpf.plan.planner import NOTHING
from kubeproxy_bpf.plan.records import BackendFlags, RecordFlags, VipFlags
from kubeproxy_bpf.plan.writes import Failed
from tests.plan_objects import (
    Bench,
    cluster_ip,
    complete,
    desired,
    endpoint,
    external_ip,
    ip,
    node_port,
    port_id,
)

WEB, DNS, API = port_id("web"), port_id("dns"), port_id("api")
VIP, VIP2 = "10.96.0.1", "10.96.0.2"


def targets(bench: Bench, address: str = VIP, port: int = 80) -> set[str]:
    return {name for name, _ in bench.fake.trace(POD, ip(address), port, 6).backends}


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_service_leads_to_its_endpoints(bench: Bench) -> None:
    """What is desired is what a program finds."""
    bench.sync(complete({WEB: desired([cluster_ip(VIP)], ["10.0.0.1", "10.0.0.2"])}))

    assert {"10.0.0.1", "10.0.0.2"} == targets(bench)


def test_the_same_changes_again_write_nothing(bench: Bench) -> None:
    """Planning what is programmed yields an empty plan."""
    changes = complete({WEB: desired([cluster_ip(VIP)], ["10.0.0.1"])})
    bench.sync(changes)

    assert bench.planner.plan(changes).empty


def test_an_endpoint_change_is_an_extent_a_record_and_a_word(bench: Bench) -> None:
    """No hash map is touched when endpoints change."""
    front = [cluster_ip(VIP)]
    bench.sync(complete({WEB: desired(front, ["10.0.0.1"])}))

    plan = bench.plan(Changes({WEB: desired(front, ["10.0.0.1", "10.0.0.2"])}, {}))

    assert ["backends", "slots", "records", "services"] == [step.map for step in plan.steps()]
    assert {"10.0.0.1", "10.0.0.2"} == targets(bench)


def test_endpoints_in_another_order_write_nothing(bench: Bench) -> None:
    """A set is a set: only its windows matter."""
    front = [cluster_ip(VIP)]
    bench.sync(complete({WEB: desired(front, ["10.0.0.1", "10.0.0.2", "10.0.0.3"])}))

    plan = bench.plan(Changes({WEB: desired(front, ["10.0.0.2", "10.0.0.1", "10.0.0.3"])}, {}))

    assert plan.empty


def test_endpoints_that_change_sides_are_written(bench: Bench) -> None:
    """Order counts across the border of a window."""
    front = [cluster_ip(VIP)]
    bench.sync(complete({WEB: desired(front, ["10.0.0.1", "10.0.0.2"], local=1)}))

    plan = bench.plan(Changes({WEB: desired(front, ["10.0.0.2", "10.0.0.1"], local=1)}, {}))

    assert ["slots", "records", "services"] == [step.map for step in plan.steps()]


def test_a_removed_service_leaves_nothing_behind(bench: Bench) -> None:
    """Entries go, words are zero, backends are not live, bits are clear."""
    services = {WEB: desired([cluster_ip(VIP), node_port(30000)], ["10.0.0.1"])}
    bench.sync(complete(services))

    bench.sync(Changes({WEB: None}, {ip(VIP): 0, ip("192.0.2.1"): 0}))

    assert "" == bench.fake.dump_text()
    assert {0} == {word.record for word in bench.fake.services.values()}


def test_words_and_backends_stay_until_the_grace_period_ends(bench: Bench) -> None:
    """A program that still holds a removed frontend finds what it led to."""
    bench.sync(complete({WEB: desired([cluster_ip(VIP)], ["10.0.0.1"])}))
    index = next(iter(bench.fake.frontends.values())).service

    bench.plan(Changes({WEB: None}, {ip(VIP): 0}))

    word = bench.fake.services[index]
    backend = bench.fake.backends[bench.fake.slots[bench.fake.records[word.record].slots]]
    assert backend.flags & BackendFlags.LIVE


def test_a_recreated_service_adopts_the_index(bench: Bench) -> None:
    """Deleted and created in one step: no frontend is written, and pins of the old one end."""
    bench.sync(complete({WEB: desired([cluster_ip(VIP)], ["10.0.0.1"], affinity=5)}))
    (before,) = bench.fake.services.values()

    new = desired([cluster_ip(VIP)], ["10.0.0.9"], affinity=5)
    plan = bench.plan(Changes({WEB: None, API: new}, {}))

    (after,) = bench.fake.services.values()
    assert {"frontends", "vips"}.isdisjoint(step.map for step in plan.steps())
    assert after.generation != before.generation
    assert {"10.0.0.9"} == targets(bench)


def test_a_recreated_service_with_the_same_endpoints_gets_a_new_generation(bench: Bench) -> None:
    """One word is enough when only the owner changes."""
    wanted = desired([cluster_ip(VIP)], ["10.0.0.1"])
    bench.sync(complete({WEB: wanted}))

    plan = bench.plan(Changes({WEB: None, API: wanted}, {}))

    assert ["services"] == [step.map for step in plan.steps()]
    assert API == bench.planner.owner(next(iter(bench.fake.frontends)))


def test_an_index_is_not_adopted_with_frontends_that_go(bench: Bench) -> None:
    """A frontend that goes away must not lead to the new owner's endpoints for a moment."""
    old = desired([cluster_ip(VIP), external_ip("203.0.113.1")], ["10.0.0.1"])
    bench.sync(complete({WEB: old}))

    new = desired([cluster_ip(VIP)], ["10.0.0.9"])
    plan = bench.planner.plan(Changes({WEB: None, API: new}, {ip("203.0.113.1"): 0}))

    assert 1 == len(plan.frontends_replaced)
    assert {0} == {
        targets(bench, "203.0.113.1") == {"10.0.0.9"}
        for step in plan.steps()
        if bench.fake.do(step) is None
    }
    assert {"10.0.0.9"} == targets(bench)


def test_a_frontend_that_moves_between_services_is_replaced(bench: Bench) -> None:
    """It leads to the old owner, then to the new one, and never nowhere."""
    shared = external_ip("203.0.113.1")
    web, api = [cluster_ip(VIP)], [cluster_ip(VIP2)]
    bench.sync(
        complete({WEB: desired([*web, shared], ["10.0.0.1"]), API: desired(api, ["10.0.0.2"])})
    )

    plan = bench.plan(
        Changes({WEB: desired(web, ["10.0.0.1"]), API: desired([*api, shared], ["10.0.0.2"])}, {})
    )

    assert ["frontends"] == [step.map for step in plan.steps()]
    assert [True] == [step.grace for step in plan.steps()]
    assert {"10.0.0.2"} == targets(bench, "203.0.113.1")


def test_flags_of_a_vip_are_replaced(bench: Bench) -> None:
    """A value of a hash map never changes in place."""
    bench.sync(complete({WEB: desired([cluster_ip(VIP)], ["10.0.0.1"])}))

    flags = int(VipFlags.CLUSTER_IP | VipFlags.ON_DEVICE)
    plan = bench.plan(Changes({}, {ip(VIP): flags}))

    assert [(ip(VIP), flags)] == plan.vips_replaced
    assert Reason.ON_DEVICE == bench.fake.trace(POD, ip(VIP), 80, 6).reason


def test_a_claimed_frontend_stays_with_its_owner_until_it_is_given_up(bench: Bench) -> None:
    """Two services want one address: the first keeps it, the second gets it afterwards."""
    shared = external_ip("203.0.113.1")
    bench.sync(complete({WEB: desired([cluster_ip(VIP), shared], ["10.0.0.1"])}))
    plan = bench.sync(Changes({API: desired([cluster_ip(VIP2), shared], ["10.0.0.2"])}, {}))
    assert [(API, "frontends")] == plan.unfit
    assert {"10.0.0.1"} == targets(bench, "203.0.113.1")

    bench.sync(Changes({WEB: desired([cluster_ip(VIP)], ["10.0.0.1"])}, {}))

    assert () == bench.planner.waiting
    assert (API, WEB) == tuple(
        bench.planner.owner(key)
        for key in sorted(bench.fake.frontends, key=lambda key: key.address != ip("203.0.113.1"))
        if key.address in (ip("203.0.113.1"), ip(VIP))
    )


@pytest.mark.parametrize("before, after", [(0, 10), (10, 0)])
def test_switching_affinity_ends_old_pins(bench: Bench, before: int, after: int) -> None:
    """On or off begins a new generation [G7]."""
    front = [cluster_ip(VIP)]
    bench.sync(complete({WEB: desired(front, ["10.0.0.1"], affinity=before)}))
    (old,) = bench.fake.services.values()

    bench.sync(Changes({WEB: desired(front, ["10.0.0.1"], affinity=after)}, {}))

    (new,) = bench.fake.services.values()
    assert old.generation != new.generation


def test_another_time_out_keeps_pins(bench: Bench) -> None:
    """Only switching counts."""
    front = [cluster_ip(VIP)]
    bench.sync(complete({WEB: desired(front, ["10.0.0.1"], affinity=10)}))
    (old,) = bench.fake.services.values()

    bench.sync(Changes({WEB: desired(front, ["10.0.0.1"], affinity=20)}, {}))

    (new,) = bench.fake.services.values()
    assert old.generation == new.generation


def test_bits_of_node_ports_are_counted_over_protocols(bench: Bench) -> None:
    """A bit is cleared only with the last frontend of its port."""
    udp = port_id("web", 17)
    bench.sync(
        complete(
            {
                WEB: desired([cluster_ip(VIP), node_port(30001)], ["10.0.0.1"]),
                udp: desired([node_port(30001, 17)], ["10.0.0.1"]),
            }
        )
    )
    bench.sync(Changes({udp: None}, {}))
    assert {"10.0.0.1"} == targets(bench, "192.0.2.1", 30001)

    bench.sync(Changes({WEB: desired([cluster_ip(VIP)], ["10.0.0.1"])}, {}))

    assert not any(bench.fake.node_ports)


def test_bits_are_set_before_and_cleared_after_the_frontend(bench: Bench) -> None:
    """A node port never exists without its bit."""
    wanted = desired([node_port(30000)], ["10.0.0.1"])
    added = bench.sync(complete({WEB: wanted}))
    removed = bench.sync(Changes({WEB: None}, {}))

    assert ["node_ports", "frontends"] == [
        step.map for step in added.steps() if step.map in ("node_ports", "frontends")
    ]
    assert ["frontends", "node_ports"] == [
        step.map for step in removed.steps() if step.map in ("node_ports", "frontends")
    ]


def test_a_returning_backend_keeps_its_id_within_its_rest(bench: Bench) -> None:
    """An endpoint that flaps is the same backend."""
    front = [cluster_ip(VIP)]
    bench.sync(complete({WEB: desired(front, ["10.0.0.1"])}))
    before = dict(bench.fake.backends)
    gone = bench.plan(Changes({WEB: desired(front, [])}, {}))
    bench.plan(Changes({WEB: desired(front, ["10.0.0.1"])}, {}))

    bench.rest(gone)

    assert before == bench.fake.backends


def test_an_id_given_to_another_address_has_another_generation(bench: Bench) -> None:
    """What remembers a backend can tell that it is gone."""
    front = [cluster_ip(VIP)]
    bench.sync(complete({WEB: desired(front, ["10.0.0.1"])}))
    bench.sync(Changes({WEB: desired(front, [])}, {}))
    bench.sync(Changes({WEB: desired(front, ["10.0.0.2"])}, {}))

    ((number, backend),) = bench.fake.backends.items()
    assert (1, 2) == (number, backend.generation)


def test_flags_of_a_known_backend_are_updated(bench: Bench) -> None:
    """An address that turns out to be the node's own is marked without a new id."""
    wanted = desired([cluster_ip(VIP)], ["10.0.0.1"])
    bench.sync(complete({WEB: wanted}))

    own = endpoint("10.0.0.1", flags=int(BackendFlags.HOST))
    plan = bench.plan(Changes({WEB: wanted._replace(backends=(own,))}, {}))

    assert ["backends"] == [step.map for step in plan.steps()]
    assert bench.fake.backends[1].flags == BackendFlags.HOST | BackendFlags.LIVE


def test_what_one_service_says_of_a_pod_is_not_said_of_anothers(bench: Bench) -> None:
    """A slice that calls somebody else's endpoint local has a backend of its own."""
    wanted = desired([cluster_ip(VIP)], ["10.0.0.1"])
    bench.sync(complete({WEB: wanted}))

    local = endpoint("10.0.0.1", flags=int(BackendFlags.LOCAL))
    rival = desired([cluster_ip("10.96.0.99")], [])._replace(backends=(local,))
    both = {WEB: wanted, port_id("rival"): rival}
    bench.sync(complete(both))
    bench.restart()
    plan = bench.sync(complete(both))
    assert not plan.backends
    flags = {number: backend.flags for number, backend in bench.fake.backends.items()}
    assert {1: BackendFlags.LIVE, 2: BackendFlags.LOCAL | BackendFlags.LIVE} == flags


def test_udp_backends_that_a_service_loses_are_named() -> None:
    """Whoever aborts sockets learns which."""
    bench, dns = Bench(), port_id("dns", 17)
    front = [node_port(53, 17)]
    bench.sync(complete({dns: desired(front, ["10.0.0.1", "10.0.0.2"])}))

    plan = bench.plan(Changes({dns: desired(front, ["10.0.0.2"])}, {}))
    gone = bench.plan(Changes({dns: None}, {}))

    assert ([(1, 1)], [(1, 2)]) == (plan.lost, gone.lost)


def test_an_empty_local_set_drops_only_if_someone_could_serve(bench: Bench) -> None:
    """The flags of the record reach the programs."""
    wanted = desired([cluster_ip(VIP)], ["10.0.0.1"])
    flags = int(RecordFlags.INTERNAL_LOCAL | RecordFlags.HAS_ENDPOINTS)
    none = desired([cluster_ip(VIP2)], [])._replace(flags=int(RecordFlags.INTERNAL_LOCAL))
    bench.sync(complete({WEB: wanted._replace(flags=flags), API: none}))

    reasons = [bench.fake.trace(HOST, ip(vip), 80, 6).reason for vip in (VIP, VIP2)]

    assert [Reason.NO_LOCAL_ENDPOINT, Reason.NO_ENDPOINTS] == reasons


def test_a_refused_write_is_repeated_and_holds_back_what_it_freed(bench: Bench) -> None:
    """While a removed frontend may still be there, its index is nobody else's."""
    bench.sync(complete({WEB: desired([cluster_ip(VIP)], ["10.0.0.1"])}))
    plan = bench.planner.plan(Changes({WEB: None}, {}))
    key = plan.frontends_removed[0]
    bench.planner.settle(plan, [Failed("frontends", "delete", key, MapFull("frontends", 1))])
    bench.planner.release(plan.token)

    new = bench.planner.plan(Changes({API: desired([cluster_ip(VIP2)], ["10.0.0.2"])}, {}))

    assert [key] == new.frontends_removed
    assert [2] == list(new.services)


def test_nothing_is_removed_before_changes_are_complete(bench: Bench) -> None:
    """After a restart what is not named yet may only be unknown yet."""
    web = desired([cluster_ip(VIP)], ["10.0.0.1"])
    bench.sync(complete({WEB: web}))
    bench.restart()

    bench.sync(Changes({API: desired([cluster_ip(VIP2)], ["10.0.0.2"])}, {}))
    assert {"10.0.0.1"} == targets(bench)

    bench.sync(complete({API: desired([cluster_ip(VIP2)], ["10.0.0.2"])}))
    assert set() == targets(bench)


def test_a_restart_writes_nothing_when_nothing_changed(bench: Bench) -> None:
    """Ids, generations and extents are found again in the maps."""
    changes = complete(
        {
            WEB: desired([cluster_ip(VIP), node_port(30000)], ["10.0.0.1"], affinity=3),
            API: desired([cluster_ip(VIP2)], ["10.0.0.1", "10.0.0.2"], local=1),
        }
    )
    bench.sync(changes)
    bench.restart()

    assert bench.planner.plan(changes).empty


def test_an_empty_plan_for_no_changes(bench: Bench) -> None:
    """Nothing is owed at rest."""
    bench.sync(complete({WEB: Desired((), (), 0, 0, 0, 0, 0)}))

    assert (False, True) == (bench.planner.owes, bench.planner.plan(NOTHING).empty)


def test_counts_begin_anew_for_a_new_owner_alone(bench: Bench) -> None:
    """Neither a change of its own nor a restart takes the counts of a service port away."""
    web = desired([cluster_ip(VIP)], ["10.0.0.1"])
    first = bench.sync(complete({WEB: web}))
    (index,) = bench.planner.owners

    assert [index] == first.counts_cleared
    changed = desired([cluster_ip(VIP)], ["10.0.0.2"], affinity=9)
    assert not bench.sync(Changes({WEB: changed}, {})).counts_cleared
    bench.restart()
    assert not bench.sync(complete({WEB: web})).counts_cleared


def test_counts_of_an_index_that_is_taken_over_begin_anew(bench: Bench) -> None:
    """One Service takes the address of another that goes: the index stays, the owner changes."""
    web = desired([cluster_ip(VIP)], ["10.0.0.1"])
    bench.sync(complete({WEB: web}))
    (index,) = bench.planner.owners

    plan = bench.plan(Changes({WEB: None, API: web}, {}))

    assert {index: API} == bench.planner.owners
    assert [index] == plan.counts_cleared
