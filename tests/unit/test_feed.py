# SPDX-License-Identifier: Apache-2.0
"""The feed opens the gate only when the store and the node's addresses are known."""

import pytest

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.api.decode import Kind
from kubeproxy_bpf.api.objects import (
    EndpointSlice,
    Ingress,
    Node,
    Service,
    ServiceCIDR,
    ServicePort,
)
from kubeproxy_bpf.config.load import load
from kubeproxy_bpf.feed import Feed
from kubeproxy_bpf.meters import SyncMeters
from kubeproxy_bpf.model.addresses import parse_prefix
from kubeproxy_bpf.model.cluster import ClusterModel
from kubeproxy_bpf.model.facts import ModelConfig
from kubeproxy_bpf.model.types import Family
from kubeproxy_bpf.node.devices import LocalAddress
from kubeproxy_bpf.plan.records import VipFlags

SERVICE = Service(
    "ns", "web", "u", "", "ClusterIP", "10.96.0.1", ("10.96.0.1",), ("IPv4",),
    (ServicePort("", "TCP", 80, 0),), (), (), (), "Cluster", "Cluster", "None", 0, 0, None, (),
)  # fmt: skip
NODE = Node("n1", "", (), (("Hostname", "n1"), ("InternalIP", "192.0.2.1")), False, ())
ADDRESSES = frozenset({LocalAddress(parse_address("192.0.2.1"), "eth0")})


class Wakes:
    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1


@pytest.fixture
def parts():
    model = ClusterModel(ModelConfig("n1"))
    wakes, nodes = Wakes(), []
    config = load(["--hostname-override=n1", "--nodeport-addresses=primary"])
    return Feed(model, config, wake=wakes, node_seen=nodes.append), model, wakes, nodes


def fill(feed):
    feed.on_change(Kind.SERVICE, SERVICE.key, None, SERVICE)
    feed.on_change(Kind.NODE, NODE.key, None, NODE)


@pytest.mark.parametrize("addresses_first", [True, False])
def test_both_gates_must_open(parts, addresses_first):
    """Whichever comes first, nothing is programmed before both are known."""
    feed, model, wakes, _ = parts
    fill(feed)
    steps = [feed.on_synced, lambda: feed.addresses_changed(ADDRESSES)]
    first, second = reversed(steps) if addresses_first else steps

    first()
    assert (0, False) == (wakes.count, model.has_changes)

    second()
    assert 1 == wakes.count
    changes = model.take().changes
    assert changes.complete
    assert 1 == len(changes.services)
    assert VipFlags.HOST_PORT | VipFlags.NODE_PORT == changes.vips[parse_address("192.0.2.1")]


def test_later_changes_wake_the_sync(parts):
    """After the start each object change and each address change wakes the loop."""
    feed, model, wakes, _ = parts
    fill(feed)
    feed.on_synced()
    feed.addresses_changed(ADDRESSES)
    model.take()

    feed.on_change(Kind.SERVICE, SERVICE.key, SERVICE, None)
    assert 2 == wakes.count
    assert [None] == list(model.take().changes.services.values())

    feed.addresses_changed(frozenset())
    assert 3 == wakes.count
    assert 0 == model.take().changes.vips[parse_address("192.0.2.1")]


def test_the_node_is_judged_also_when_it_goes(parts):
    """Health hears of every version of the Node, and of its deletion."""
    feed, _, _, nodes = parts
    feed.on_change(Kind.NODE, NODE.key, None, NODE)
    feed.on_change(Kind.NODE, NODE.key, NODE, None)

    assert [NODE, None] == nodes


def test_who_the_node_is_is_told_from_the_gate_on():
    """First when all is known, then whenever an address or a ServiceCIDR changes."""
    told = []
    feed = Feed(
        ClusterModel(ModelConfig("n1")),
        load(["--hostname-override=n1", "--detect-local-mode=NodeCIDR"]),
        wake=lambda: None,
        node_seen=lambda node: None,
        node_known=told.append,
    )
    cidr = ServiceCIDR("kubernetes", ("10.96.0.0/16",))
    feed.on_change(Kind.SERVICE_CIDR, cidr.key, None, cidr)
    feed.on_change(Kind.NODE, NODE.key, None, NODE)
    feed.addresses_changed(ADDRESSES)
    assert [] == told

    feed.on_synced()
    assert (parse_address("192.0.2.1"), 1) == (told[-1].ipv4, len(told[-1].service_cidrs))

    feed.on_change(Kind.SERVICE_CIDR, cidr.key, cidr, None)
    assert () == told[-1].service_cidrs

    feed.on_change(Kind.NODE, NODE.key, NODE, NODE._replace(pod_cidrs=("10.244.0.0/24",)))
    assert parse_prefix("10.244.0.0/24") == told[-1].pods_ipv4

    feed.addresses_changed(frozenset())
    assert told[-1].ipv4 is None


def test_an_unreadable_service_cidr_prunes_all_the_same():
    """It names no Service, so nothing that was programmed can be its."""
    model = ClusterModel(ModelConfig("n1"))
    unreadable = {(Kind.SERVICE_CIDR, ServiceCIDR("x", ()).key)}
    feed = Feed(
        model,
        load(["--hostname-override=n1"]),
        wake=lambda: None,
        node_seen=lambda node: None,
        unreadable=lambda: unreadable,
    )
    feed.on_synced()
    feed.addresses_changed(ADDRESSES)

    assert model.take().changes.complete


def test_source_ranges_know_the_node_by_its_ip(parts):
    """F7, K3: the IP of the Node object is what a range is compared with, as of the start."""
    feed, model, _, _ = parts
    balanced = SERVICE._replace(
        type="LoadBalancer",
        ingress=(Ingress("198.51.100.1", "VIP"),),
        source_ranges=("192.0.2.0/24",),
    )
    fill(feed)
    feed.on_change(Kind.SERVICE, balanced.key, SERVICE, balanced)
    feed.on_synced()
    feed.addresses_changed(ADDRESSES)

    (desired,) = model.take().changes.services.values()
    expected = [parse_prefix(text) for text in ("192.0.2.0/24", "198.51.100.1/32")]
    assert expected == list(desired.source_ranges)


def latencies(meters):
    """How many triggers were observed, by family, once a sync is done."""
    meters.begun()
    meters.finished()
    name = "kubeproxy_network_programming_duration_seconds"
    (family,) = [family for family in meters.families() if family.name == name]
    return {labels[0]: sum(found.counts) for labels, found in family.series.items()}


def test_triggers_of_changes_are_measured():
    """In the family of the slice; a new trigger without another content programs nothing."""
    meters = SyncMeters(("IPv4", "IPv6"), lambda: 1000.0)
    config = load(["--hostname-override=n1"])
    model = ClusterModel(ModelConfig("n1"))
    feed = Feed(model, config, wake=Wakes(), node_seen=lambda node: None, meters=meters)
    old = EndpointSlice("ns", "web-1", "web", False, "IPv6", (), (), (), 900.0)
    new = old._replace(service="other", triggered=1001.0)

    feed.on_change(Kind.ENDPOINT_SLICE, old.key, None, old)
    assert {} == latencies(meters)
    feed.on_change(Kind.ENDPOINT_SLICE, old.key, old, new)
    assert {"IPv6": 1} == latencies(meters)
    feed.on_change(Kind.ENDPOINT_SLICE, old.key, new, new._replace(triggered=1002.0))
    feed.on_change(Kind.ENDPOINT_SLICE, old.key, new, None)
    assert {"IPv6": 1} == latencies(meters)


def test_where_health_checks_listen_is_told_and_followed():
    """The addresses that nodePortAddresses choose, from the gate on and after each change."""
    told = []
    config = load(["--hostname-override=n1", "--nodeport-addresses=192.0.2.0/24"])
    model = ClusterModel(ModelConfig("n1"))
    feed = Feed(model, config, wake=Wakes(), node_seen=lambda node: None, listen_on=told.append)
    fill(feed)
    feed.on_synced()
    feed.addresses_changed(ADDRESSES)
    more = {LocalAddress(parse_address("192.0.2.7"), "eth1")}
    feed.addresses_changed(ADDRESSES | more)

    assert [
        {Family.IPV4: {"192.0.2.1"}, Family.IPV6: None},
        {Family.IPV4: {"192.0.2.1", "192.0.2.7"}, Family.IPV6: None},
    ] == told


def test_what_is_recalled_is_programmed_and_prunes_nothing(parts):
    """Not everything, no end of the start; the lists then give everything as complete."""
    feed, model, wakes, _ = parts
    fill(feed)
    feed.on_recalled()
    assert 0 == wakes.count
    feed.addresses_changed(ADDRESSES)
    changes = model.take().changes
    assert (1, 1, False, False) == (
        wakes.count,
        len(changes.services),
        changes.complete,
        feed.complete,
    )

    feed.on_change(Kind.SERVICE, SERVICE.key, SERVICE, None)
    feed.on_synced()
    changes = model.take().changes
    assert changes.complete and feed.complete
    assert not [desired for desired in changes.services.values() if desired]


def test_a_node_that_is_recalled_gives_way_to_what_the_api_server_says():
    """By which address the cluster knows the node decides once, and a memory decides nothing."""
    config = load(["--hostname-override=n1", "--nodeport-addresses=primary"])
    model = ClusterModel(ModelConfig("n1"))
    told = []
    feed = Feed(model, config, wake=Wakes(), node_seen=lambda node: None, listen_on=told.append)
    other = LocalAddress(parse_address("192.0.2.7"), "eth1")
    moved = NODE._replace(addresses=(("InternalIP", "192.0.2.7"),))
    fill(feed)
    feed.on_recalled()
    feed.addresses_changed(ADDRESSES | {other})
    feed.on_change(Kind.NODE, NODE.key, NODE, moved)
    feed.on_synced()
    assert [{"192.0.2.1"}, {"192.0.2.7"}] == [hosts[Family.IPV4] for hosts in told]
