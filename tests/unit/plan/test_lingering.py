# SPDX-License-Identifier: Apache-2.0
"""VIPs that are no longer served stay for their flows [A13], and make room for those that are."""

from __future__ import annotations

import pytest

from kubeproxy_bpf.dataplane.trace import POD, Reason
from kubeproxy_bpf.model.types import Changes
from kubeproxy_bpf.plan.planner import NOTHING
from kubeproxy_bpf.plan.records import VipFlags
from kubeproxy_bpf.plan.writes import Capacity
from tests.plan_objects import PACKETS, SMALL, Bench, cluster_ip, desired, ip, port_id

WEB = port_id("web")
VIP, VIP2, NODE = ip("10.96.0.1"), ip("10.96.0.2"), ip("192.0.2.1")
CLUSTER_IP, EXTERNAL = int(VipFlags.CLUSTER_IP), int(VipFlags.EXTERNAL)
OWN = int(VipFlags.NODE_PORT | VipFlags.HOST_PORT)
LINGER = int(VipFlags.LINGER)


@pytest.fixture
def bench() -> Bench:
    return Bench(PACKETS)


def set_vips(bench: Bench, vips: dict[bytes, int], complete: bool = False) -> None:
    bench.sync(Changes({}, vips, complete))


def test_the_address_of_a_deleted_service_lingers(bench: Bench) -> None:
    """It stays in the map, and nothing new is served there."""
    service = desired([cluster_ip("10.96.0.1")], ["10.244.1.1"])
    bench.sync(Changes({WEB: service}, {VIP: CLUSTER_IP}, True))
    bench.sync(Changes({WEB: None}, {VIP: 0}))

    assert {VIP: LINGER} == bench.fake.vips
    assert [VIP] == list(bench.planner.lingering)
    assert Reason.NONE == bench.fake.trace(POD, VIP, 80, 6).reason
    assert Reason.NONE == bench.fake.trace(POD, VIP, 81, 6).reason


def test_it_lingers_before_its_frontends_go(bench: Bench) -> None:
    """A cluster IP without its frontends would refuse as an unknown port what still goes on."""
    service = desired([cluster_ip("10.96.0.1")], ["10.244.1.1"])
    bench.sync(Changes({WEB: service}, {VIP: CLUSTER_IP}, True))
    plan = bench.planner.plan(Changes({WEB: None}, {VIP: 0}))

    assert ["vips", "frontends"] == [step.map for step in plan.steps()]


def test_many_that_go_at_once_cost_one_grace_period(bench: Bench) -> None:
    """A reader that meets another's element finds the same flags there as in its own."""
    addresses = [ip(f"10.96.1.{i}") for i in range(1, 30)]
    set_vips(bench, dict.fromkeys(addresses, CLUSTER_IP))
    steps = list(bench.planner.plan(Changes({}, dict.fromkeys(addresses, 0))).steps())

    assert [LINGER] * 29 == [step.value for step in steps]
    assert [step.grace for step in steps] == [False] * 28 + [True]


def test_flags_that_differ_are_never_replaced_without_a_grace_period_between(bench: Bench) -> None:
    """A reader may meet another's element, so within a group all say the same."""
    addresses = [ip(f"10.96.1.{i}") for i in range(1, 9)]
    set_vips(bench, dict.fromkeys(addresses, CLUSTER_IP))
    mixed = {a: OWN if i % 2 else EXTERNAL for i, a in enumerate(addresses)}
    groups = list(bench.planner.plan(Changes({}, mixed)).vips_by_flags())

    assert [4, 4] == [len(group) for group in groups]
    assert all(len({flags for _, flags in group}) == 1 for group in groups)


def test_a_node_address_does_not_linger(bench: Bench) -> None:
    """Packets to it are nobody's any more; one that stays the node's keeps its own flags."""
    set_vips(bench, {NODE: OWN, VIP: OWN | EXTERNAL})
    set_vips(bench, {NODE: 0, VIP: OWN})

    assert {VIP: OWN} == bench.fake.vips


def test_a_cluster_ip_on_a_device_does_not_linger(bench: Bench) -> None:
    """It was left alone, so no flow leads there."""
    set_vips(bench, {VIP: int(VipFlags.CLUSTER_IP | VipFlags.ON_DEVICE)})
    set_vips(bench, {VIP: 0})

    assert {} == bench.fake.vips


def test_a_lingering_address_becomes_a_vip_again(bench: Bench) -> None:
    """It is replaced as if it had been served all the time."""
    set_vips(bench, {VIP: CLUSTER_IP})
    set_vips(bench, {VIP: 0})
    set_vips(bench, {VIP: EXTERNAL})

    assert {VIP: EXTERNAL} == bench.fake.vips
    assert {} == bench.planner.lingering


def test_a_swept_address_goes(bench: Bench) -> None:
    """Who finds no flow says so, and the next plan removes the address."""
    set_vips(bench, {VIP: CLUSTER_IP, VIP2: CLUSTER_IP})
    set_vips(bench, {VIP: 0, VIP2: 0})
    bench.planner.forget({VIP: bench.planner.lingering[VIP]})
    assert bench.planner.owes

    bench.sync(NOTHING)
    assert {VIP2: LINGER} == bench.fake.vips


def test_a_sweep_of_an_earlier_time_does_not_count(bench: Bench) -> None:
    """An address that was a VIP again since it was looked at may have new flows."""
    set_vips(bench, {VIP: CLUSTER_IP})
    set_vips(bench, {VIP: 0})
    seen = dict(bench.planner.lingering)
    set_vips(bench, {VIP: CLUSTER_IP})
    set_vips(bench, {VIP: 0})
    bench.planner.forget(seen)
    bench.sync(NOTHING)

    assert {VIP: LINGER} == bench.fake.vips


def test_a_restart_finds_what_lingers(bench: Bench) -> None:
    """Complete changes make stale VIPs linger and leave alone those that do."""
    set_vips(bench, {VIP: CLUSTER_IP, VIP2: CLUSTER_IP, NODE: OWN})
    set_vips(bench, {VIP: 0})
    bench.restart()
    assert [VIP] == list(bench.planner.lingering)

    set_vips(bench, {NODE: OWN}, complete=True)
    assert {VIP: LINGER, VIP2: LINGER, NODE: OWN} == bench.fake.vips
    assert bench.planner.plan(Changes({}, {NODE: OWN}, True)).empty


def test_the_oldest_makes_room_for_a_vip() -> None:
    """Flows of a Service that is gone do not keep another from being served."""
    bench = Bench(PACKETS._replace(vips=3))
    set_vips(bench, {VIP: CLUSTER_IP, VIP2: CLUSTER_IP, NODE: OWN})
    set_vips(bench, {VIP2: 0})
    set_vips(bench, {VIP: 0})
    new = ip("10.96.0.9")
    plan = bench.sync(Changes({}, {new: CLUSTER_IP}))

    assert [] == plan.vips_unfit
    assert {VIP: LINGER, NODE: OWN, new: CLUSTER_IP} == bench.fake.vips


def test_one_that_goes_makes_room_for_one_that_comes() -> None:
    """In a full map an address lingers only if nobody needs its place."""
    bench = Bench(PACKETS._replace(vips=2))
    set_vips(bench, {VIP: CLUSTER_IP, NODE: OWN})
    new = ip("10.96.0.9")
    set_vips(bench, {VIP: 0, new: CLUSTER_IP})

    assert {NODE: OWN, new: CLUSTER_IP} == bench.fake.vips


def test_nothing_lingers_without_a_packet_path() -> None:
    """Sockets need no address for what is connected."""
    bench = Bench(SMALL)
    set_vips(bench, {VIP: CLUSTER_IP})
    bench.fake.vips[VIP2] = LINGER
    bench.restart()
    set_vips(bench, {}, complete=True)

    assert {} == bench.fake.vips


@pytest.mark.parametrize("capacity", [SMALL, PACKETS])
def test_a_full_map_of_what_lingers_makes_room_after_a_restart(capacity: Capacity) -> None:
    """With and without a packet path, and whatever else stands beside the flag."""
    bench = Bench(capacity._replace(vips=2))
    bench.fake.vips.update({VIP: LINGER, VIP2: LINGER | int(VipFlags.ON_DEVICE)})
    bench.restart()
    new = {ip(f"10.96.0.{n}"): CLUSTER_IP for n in (8, 9)}
    set_vips(bench, new, complete=True)

    assert new == bench.fake.vips
    assert {} == bench.planner.lingering
