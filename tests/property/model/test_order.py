# SPDX-License-Identifier: Apache-2.0
"""The order of events leaves no trace: the same end gives the same state and the same problems."""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_bpf.api.objects import (
    EndpointSlice,
    HostPort,
    Ingress,
    Node,
    ObjectKey,
    Pod,
    Service,
    ServicePort,
    SlicePort,
)
from kubeproxy_bpf.model.facts import NodeAddresses
from kubeproxy_bpf.model.services import ALGORITHM
from tests.examples import bounded
from tests.fix_objects import NODE, endpoint_slice, ip, node, pod, service, traits
from tests.golden.scenario import Scenario

# Few names, addresses and ports, so that objects are replaced, come back and contest frontends.
NAMES = ("a", "b", "c")
BOOLS = st.booleans()


class NodeIps(NamedTuple):
    """By which addresses the cluster knows the node."""

    texts: tuple[str, ...]


def some(values: Sequence[Any], most: int = 2) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(values), max_size=most, unique=True).map(tuple)


SERVICES = st.builds(
    service,
    name=st.sampled_from(NAMES),
    created=st.sampled_from(("2024", "2025")),
    type=st.sampled_from(("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")),
    cluster_ips=st.tuples(
        st.sampled_from(("10.96.0.1", "10.96.0.2", "nonsense")),
        st.sampled_from(("fd00::1", "fd00::2", "None")),
    ),
    ip_families=st.sampled_from((("IPv4", "IPv6"), ("IPv4",), ("IPv6", "IPv4"))),
    ports=some(
        [
            ServicePort("http", "TCP", 80, 0),
            ServicePort("http", "TCP", 81, 30080),
            ServicePort("dns", "UDP", 80, 30080),
            ServicePort("kubelet", "TCP", 10250, 0),
            ServicePort("stream", "SCTP", 80, 0),
            ServicePort("bad", "ICMP", 80, 0),
        ],
        3,
    ),
    external_ips=some(["203.0.113.7", "10.96.0.1", "192.168.0.1", "fd00::1"]),
    ingress=some(
        [Ingress(text, "VIP") for text in ("198.51.100.1", "203.0.113.7", "192.168.0.1")],
    ),
    source_ranges=some(["192.0.2.0/24", "::/0"]),
    internal_policy=st.sampled_from(("Cluster", "Local")),
    external_policy=st.sampled_from(("Cluster", "Local")),
    health_check_node_port=st.sampled_from((0, 32000)),
    annotations=some([(ALGORITHM, "maglev"), (ALGORITHM, "nonsense")], 1),
)

TRAITS = st.builds(
    traits,
    st.sampled_from((NODE, "node-b", None)),
    ready=BOOLS,
    serving=BOOLS,
    terminating=BOOLS,
    hint_zones=some(["east", "west"]).map(frozenset),
)
SLICES = st.builds(
    endpoint_slice,
    st.dictionaries(
        st.sampled_from(("10.0.0.1", "10.0.0.2", "10.0.0.3", "192.168.0.1")), TRAITS, max_size=4
    ),
    name=st.sampled_from(("s1", "s2", "s3")),
    service=st.sampled_from((*NAMES, "")),
    headless=st.sampled_from((False, False, True)),
    address_type=st.sampled_from(("IPv4", "IPv6")),
    ports=some([SlicePort("http", "TCP", 8080), SlicePort("dns", "UDP", 5353)]),
)
PODS = st.builds(
    lambda ports, **fields: pod(*ports, **fields),
    some(
        [
            HostPort("", 30080, 80, "TCP"),
            HostPort("192.168.0.1", 80, 80, "TCP"),
            HostPort("203.0.113.7", 80, 80, "TCP"),
            HostPort("", 8000, 80, "TCP"),
        ],
        3,
    ),
    name=st.sampled_from(("p1", "p2")),
    created=st.sampled_from(("2024", "2025")),
    phase=st.sampled_from(("Running", "Failed")),
    pod_ips=some(["10.244.1.9", "192.168.0.1", "fd00:1::9"]),
)
NODES = st.builds(node, zone=st.sampled_from(("east", "west", "")))
ADDRESSES = some(["192.168.0.1", "10.96.0.1", "203.0.113.7", "127.0.0.1"], 4).map(
    lambda texts: NodeAddresses(frozenset(map(ip, texts)), frozenset(map(ip, texts[:1])))
)
NODE_IPS = some(["192.0.2.11", "10.0.0.11", "fd00::11"]).map(NodeIps)
KEYS = st.sampled_from(
    [("Service", name) for name in NAMES]
    + [("EndpointSlice", name) for name in ("s1", "s2", "s3")]
    + [("Pod", name) for name in ("p1", "p2")]
)
DELETIONS = KEYS.map(lambda key: (key[0], ObjectKey("default", key[1])))
TAKE = "take"
EVENTS = st.lists(
    st.one_of(
        *(SERVICES, SERVICES, SLICES, SLICES, PODS, NODES, ADDRESSES, NODE_IPS),
        *(DELETIONS, st.just(TAKE)),
    ),
    max_size=30,
)


def play(scenario: Scenario, event: Any) -> None:
    if event == TAKE:
        scenario.take()
    elif isinstance(event, NodeAddresses):
        scenario.model.set_node_addresses(event)
    elif isinstance(event, NodeIps):
        scenario.model.set_node_ips(map(ip, event.texts))
    elif isinstance(event, (Service, EndpointSlice, Pod, Node)):
        scenario.put(event)
    else:
        scenario.delete(*event)


def last_of_each(events: Sequence[Any]) -> list[Any]:
    """The objects that exist in the end."""
    alive: dict[Any, Any] = {}
    for event in events:
        if isinstance(event, NodeAddresses):
            alive["addresses"] = event
        elif isinstance(event, NodeIps):
            alive["node IPs"] = event
        elif isinstance(event, (Service, EndpointSlice, Pod, Node)):
            alive[type(event).__name__, event.key] = event
        elif event != TAKE:
            alive.pop(event, None)
    return list(alive.values())


@bounded(300)
@given(EVENTS, st.randoms(use_true_random=False))
def test_any_order_of_events_gives_the_same_state(events: list[Any], random: Any) -> None:
    """What came, went and contested on the way does not show: incremental equals from scratch."""
    lived = Scenario()
    for event in events:
        play(lived, event)
    lived.take()
    fresh = Scenario()
    objects = last_of_each(events)
    random.shuffle(objects)
    for value in objects:
        play(fresh, value)
    fresh.take()
    assert lived.dump() == fresh.dump()
    assert lived.services == fresh.services


@bounded(100)
@given(EVENTS)
def test_a_full_synchronisation_changes_nothing(events: list[Any]) -> None:
    """What a complete result names is exactly what the changes before it add up to."""
    scenario = Scenario()
    for event in events:
        play(scenario, event)
    scenario.take()
    services, vips = dict(scenario.services), dict(scenario.vips)
    scenario.model.mark_complete()
    changes = scenario.model.take().changes
    assert changes.services == services and changes.vips == vips


@bounded(100)
@given(EVENTS)
def test_the_invariants_of_a_desired_hold(events: list[Any]) -> None:
    """Each frontend has one owner, each backend stands once, and windows lie within the extent."""
    scenario = Scenario()
    for event in events:
        play(scenario, event)
    scenario.take()
    keys: list[tuple[bytes, int, int]] = []
    for desired in scenario.services.values():
        keys += [spec[:3] for spec in desired.frontends]
        assert desired.frontends
        backends = [backend[:3] for backend in desired.backends]
        assert len(set(backends)) == len(backends)
        assert desired.cluster_count <= len(backends)
        assert desired.local_first + desired.local_count <= len(backends)
        # The windows overlap or touch: nothing that is in a set lies behind one that is in none.
        assert desired.local_first <= desired.cluster_count or not desired.local_count
    assert len(set(keys)) == len(keys)
