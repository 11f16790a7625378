# SPDX-License-Identifier: Apache-2.0
"""The compiler against a plain reading of the tables: one endpoint at a time, no short cuts."""

from __future__ import annotations

from typing import NamedTuple
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_bpf.api.objects import EndpointSlice, EndpointTraits, Ingress, ServicePort
from kubeproxy_bpf.model import desired as desired_module
from kubeproxy_bpf.model.desired import compile_service
from kubeproxy_bpf.model.facts import ModelConfig, NodeFacts
from kubeproxy_bpf.plan.records import BackendFlags, RecordFlags
from tests.examples import bounded
from tests.fix_objects import NODE, endpoint_slice, ip, service, traits

ADDRESSES = [f"10.0.0.{number}" for number in range(1, 7)]
ZONES = st.sampled_from([frozenset(), frozenset({"east"}), frozenset({"west", "east"})])
NODES = st.sampled_from([frozenset(), frozenset({NODE}), frozenset({"node-b"})])

PLAIN = st.builds(traits, st.sampled_from((NODE, "node-b", "", None)))

# Mostly ready endpoints, or the fallbacks would be all that is ever seen.
TRAITS = st.one_of(
    PLAIN,
    st.builds(traits, st.sampled_from((NODE, "node-b")), hint_zones=ZONES, hint_nodes=NODES),
    st.builds(
        traits,
        st.sampled_from((NODE, "node-b", None)),
        ready=st.booleans(),
        serving=st.booleans(),
        terminating=st.booleans(),
        hint_zones=ZONES,
    ),
)
ENDPOINTS = st.dictionaries(st.sampled_from(ADDRESSES), TRAITS, max_size=6)
SERVICES = st.builds(
    service,
    type=st.sampled_from(("ClusterIP", "NodePort", "LoadBalancer")),
    ports=st.sampled_from(
        [(ServicePort("http", "TCP", 80, 0),), (ServicePort("http", "TCP", 80, 30080),)]
    ),
    external_ips=st.sampled_from([(), ("203.0.113.7",)]),
    ingress=st.sampled_from([(), (Ingress("198.51.100.1", "VIP"),)]),
    internal_policy=st.sampled_from(("Cluster", "Local")),
    external_policy=st.sampled_from(("Cluster", "Local")),
)


class Plain(NamedTuple):
    cluster: set[str]
    local: set[str]
    members: set[str]
    has_any: bool


def read_tables(value, endpoints: dict[str, EndpointTraits], zone: str) -> Plain:
    """Sections C and D, word by word."""
    accessible = bool(value.ports[0].node_port or value.external_ips or value.ingress)
    outside = value.type != "ClusterIP" or value.external_ips
    internal = value.internal_policy == "Local"
    external = value.external_policy == "Local" and bool(outside) and accessible
    ready = {a: t for a, t in endpoints.items() if t.ready}
    fallback = {a: t for a, t in endpoints.items() if t.serving and t.terminating}
    cluster: set[str] = set()
    local: set[str] = set()
    if not internal or accessible:
        cluster = topology(ready, zone) if ready else set(fallback)
    if internal or external:
        local = {a for a, t in ready.items() if t.node == NODE}
        local = local or {a for a, t in fallback.items() if t.node == NODE}
    serving = {a for a, t in endpoints.items() if t.serving or t.ready}
    return Plain(cluster, local, cluster | local | serving, bool(ready or fallback))


def topology(ready: dict[str, EndpointTraits], zone: str) -> set[str]:
    same_node = {a for a, t in ready.items() if NODE in t.hint_nodes}
    if same_node and not any(t.hint_nodes == frozenset() for t in ready.values()):
        return same_node
    same_zone = {a for a, t in ready.items() if zone and zone in t.hint_zones}
    if same_zone and not any(t.hint_zones == frozenset() for t in ready.values()):
        return same_zone
    return set(ready)


@bounded(500)
@given(SERVICES, ENDPOINTS, st.sampled_from(("", "east", "north")))
def test_sets_are_those_of_the_tables(value, endpoints, zone) -> None:
    """[C1-C9, D1-D5, D8] Windows, members and flags, for any Service and any endpoints."""
    plain = read_tables(value, endpoints, zone)
    ports, _ = compile_service(
        value, (endpoint_slice(endpoints),), NodeFacts(zone), ModelConfig(NODE)
    )
    (desired,) = ports.values()
    names = [".".join(map(str, backend.address[12:])) for backend in desired.backends]
    assert set(names[: desired.cluster_count]) == plain.cluster
    assert set(names[desired.local_first :][: desired.local_count]) == plain.local
    assert set(names) == plain.members and len(names) == len(plain.members)
    assert bool(desired.flags & RecordFlags.HAS_ENDPOINTS) == plain.has_any
    for name, backend in zip(names, desired.backends):
        assert bool(backend.flags & BackendFlags.LOCAL) == (endpoints[name].node == NODE)


@bounded(200)
@given(
    SERVICES,
    st.one_of(ENDPOINTS, st.dictionaries(st.sampled_from(ADDRESSES), PLAIN)),
    st.sampled_from((NODE, "")),
)
def test_the_short_cut_for_plain_endpoints_is_the_general_rule(value, endpoints, name) -> None:
    """What is compiled without looking at sets is the same as with."""
    slices = (endpoint_slice(endpoints),)
    facts, config = NodeFacts("east", frozenset({ip("10.0.0.1")})), ModelConfig(name)
    short = compile_service(value, slices, facts, config)
    with patch.object(desired_module, "_is_plain", return_value=False):
        assert compile_service(value, slices, facts, config) == short


def resolve(slices: list[EndpointSlice]) -> dict[bytes, EndpointTraits]:
    """[B6], one entry at a time."""
    found: dict[bytes, EndpointTraits] = {}
    for one in slices:
        for address, found_traits in zip(one.addresses, one.traits):
            if address not in found or not found_traits.terminating:
                found[address] = found_traits
    return found


@bounded(300)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(ADDRESSES), TRAITS), max_size=4), min_size=1, max_size=3
    )
)
def test_duplicates_resolve_one_by_one(entries: list[list[tuple[str, EndpointTraits]]]) -> None:
    """[B6] Whatever stands twice, in one slice or in several: the short cut gives the same."""
    slices = [
        endpoint_slice({}, name=f"s{number}")._replace(
            addresses=tuple(ip(text) for text, _ in found), traits=tuple(t for _, t in found)
        )
        for number, found in enumerate(entries)
    ]
    resolved = resolve(slices)
    merged = endpoint_slice({})._replace(addresses=tuple(resolved), traits=tuple(resolved.values()))
    config, facts = ModelConfig(NODE), NodeFacts("east")
    assert compile_service(service(), slices, facts, config) == compile_service(
        service(), [merged], facts, config
    )
