# SPDX-License-Identifier: Apache-2.0
"""Source ranges and protected ports: what is compiled again when the node changes, and how."""

import pytest

from kubeproxy_bpf.api.objects import Ingress, ServicePort, SlicePort
from kubeproxy_bpf.model import cluster
from kubeproxy_bpf.model.access import allowed_sources, api_server_ports
from kubeproxy_bpf.model.addresses import parse_prefix
from kubeproxy_bpf.model.cluster import ClusterModel
from kubeproxy_bpf.model.facts import KUBELET_PORTS, ModelConfig, NodeAddresses, NodeFacts
from kubeproxy_bpf.model.services import FamilyView
from kubeproxy_bpf.model.types import Desired, Family, Prefix, ServicePortId
from kubeproxy_bpf.plan.records import FrontendKind
from tests.fix_objects import HTTP, NODE, endpoint_slice, ip, service, traits

OWN, OTHER = "192.0.2.11", "192.0.2.99"
API = ServicePort("api", "TCP", 6443, 0)
BALANCED = {
    "type": "LoadBalancer",
    "ingress": (Ingress("198.51.100.1", "VIP"),),
    "source_ranges": ("192.0.2.0/24",),
}


@pytest.fixture
def model() -> ClusterModel:
    """A model on a node with one address that knows all lists and was asked once."""
    made = ClusterModel(ModelConfig(NODE, protected_ports=KUBELET_PORTS | {(10256, 6)}))
    made.set_node_addresses(NodeAddresses(frozenset({ip(OWN)})))
    made.mark_complete()
    made.take()
    return made


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the Services compiled, in order."""
    names: list[str] = []
    original = cluster.compile_service

    def recorded(value, *others):
        names.append(value.name)
        return original(value, *others)

    monkeypatch.setattr(cluster, "compile_service", recorded)
    return names


def prefixes(*texts: str) -> tuple[Prefix, ...]:
    return tuple(sorted(filter(None, map(parse_prefix, texts))))


def external(desired: Desired) -> list[bytes]:
    """The addresses of a service port's external frontends."""
    return [s.address for s in desired.frontends if s.kind != FrontendKind.CLUSTER_IP]


def view(ranges: tuple[Prefix, ...], *load_balancer_ips: str) -> FamilyView:
    ips = tuple(map(ip, load_balancer_ips))
    return FamilyView(Family.IPV4, ip("10.96.0.1"), (), ips, ranges, bool(ips))


def only(model: ClusterModel) -> Desired:
    """What came out for the one service port that changed."""
    (desired,) = model.take().changes.services.values()
    assert desired is not None
    return desired


def test_ranges_without_a_load_balancer_address_mean_nothing() -> None:
    """[F5] Node ports, external IPs and cluster IPs are not filtered."""
    ranges = prefixes("192.0.2.0/24")
    assert () == allowed_sources(view(ranges), NodeFacts())
    assert ranges == allowed_sources(view(ranges, "198.51.100.1"), NodeFacts())


def test_a_range_with_the_node_in_it_lets_in_the_addresses_themselves() -> None:
    """[F7] A host that has the address on a device speaks to itself from it."""
    facts = NodeFacts(node_ips=frozenset({ip(OWN), ip("2001:db8::1")}))
    both = allowed_sources(view(prefixes("192.0.2.0/24"), "198.51.100.1", "198.51.100.2"), facts)
    assert prefixes("192.0.2.0/24", "198.51.100.1/32", "198.51.100.2/32") == both
    ranges = prefixes("10.0.0.0/8")
    assert ranges == allowed_sources(view(ranges, "198.51.100.1"), facts)


def test_node_ips_concern_services_with_ranges_only(
    model: ClusterModel, compiled: list[str]
) -> None:
    """Others are not compiled, and the same IPs again compile nothing."""
    model.set_service(service(name="plain", cluster_ips=("10.96.0.2",)))
    model.set_service(service(**BALANCED))
    model.take()
    compiled.clear()
    model.set_node_ips([ip(OWN)])
    assert prefixes("192.0.2.0/24", "198.51.100.1/32") == only(model).source_ranges
    model.set_node_ips([ip(OWN)])
    assert ["web"] == compiled and not model.has_changes


@pytest.mark.parametrize("port", [10250, 10255, 10256])
def test_no_service_gets_a_protected_port_of_the_node(model: ClusterModel, port: int) -> None:
    """Neither as an external IP nor as a load-balancer address; the rest of it is served."""
    ports = (ServicePort("http", "TCP", port, 0),)
    ingress = (Ingress(OWN, "VIP"),)
    model.set_service(service(ports=ports, external_ips=(OWN, OTHER), ingress=ingress))
    step = model.take()
    (desired,) = step.changes.services.values()
    assert desired is not None and [ip(OTHER)] == external(desired)
    assert ["spec.externalIPs", "status.loadBalancer.ingress"] == sorted(
        problem.field for problem in step.problems
    )


def test_another_protocol_or_port_of_the_node_is_served(model: ClusterModel) -> None:
    """The kubelet listens on TCP; and a Service's own port is its own."""
    ports = (ServicePort("udp", "UDP", 10250, 0), ServicePort("http", "TCP", 80, 0))
    model.set_service(service(ports=ports, external_ips=(OWN,)))
    step = model.take()
    assert [[ip(OWN)]] * 2 == [external(d) for d in step.changes.services.values() if d]
    assert () == step.problems


def test_an_address_that_becomes_the_nodes_gives_up_protected_ports(
    model: ClusterModel, compiled: list[str]
) -> None:
    """Also when nothing about the Service changes; others are not compiled."""
    kubelet = ServicePort("kubelet", "TCP", 10250, 0)
    model.set_service(service(name="plain", cluster_ips=("10.96.0.2",)))
    model.set_service(service(ports=(kubelet,), external_ips=(OTHER,)))
    model.take()
    compiled.clear()
    model.set_node_addresses(NodeAddresses(frozenset(map(ip, (OWN, OTHER)))))
    assert [] == external(only(model))
    model.set_node_addresses(NodeAddresses(frozenset({ip(OWN)})))
    assert [ip(OTHER)] == external(only(model))
    assert ["web", "web"] == compiled


def test_an_api_server_on_this_node_keeps_its_port(model: ClusterModel) -> None:
    """From when its endpoint is known, and only where its address is the node's."""
    kubernetes = {"name": "kubernetes", "service": "kubernetes"}
    listening = endpoint_slice({OWN: traits()}, ports=(SlicePort("https", "TCP", 6443),))
    model.set_service(service(ports=(API,), external_ips=(OWN, OTHER)))
    assert [ip(OWN), ip(OTHER)] == external(only(model))
    model.set_slice(listening._replace(**kubernetes))
    assert [ip(OTHER)] == external(only(model))
    model.set_node_addresses(NodeAddresses(frozenset({ip(OTHER)})))
    assert [ip(OWN), ip(OTHER)] == external(only(model))


def test_an_api_server_that_restarts_keeps_its_port(model: ClusterModel) -> None:
    """It takes its endpoint away for a moment, in which no Service may slip in."""
    kubernetes = {"name": "kubernetes", "service": "kubernetes"}
    listening = endpoint_slice({OWN: traits()}, ports=(SlicePort("https", "TCP", 6443),))
    listening = listening._replace(**kubernetes)
    model.set_slice(listening)
    model.remove_slice(listening.key)
    model.set_service(service(ports=(API,), external_ips=(OWN,)))
    assert [] == external(only(model))


def test_api_server_ports_are_those_of_slices_on_this_node() -> None:
    """One on another node protects nothing here, and a protocol that is none is no port."""
    here = endpoint_slice({OWN: traits()}, ports=(SlicePort("https", "TCP", 6443),))
    there = endpoint_slice({OTHER: traits()}, ports=(SlicePort("https", "TCP", 443),))
    odd = endpoint_slice({OWN: traits()}, ports=(SlicePort("https", "ICMP", 444),))
    assert {(6443, 6)} == api_server_ports([here, there, odd], frozenset({ip(OWN)}))


def test_a_health_check_of_a_service_keeps_its_port(
    model: ClusterModel, compiled: list[str]
) -> None:
    """Who asks after one Service hears of it, whatever comes first; others are not compiled."""
    check = 32456
    port = (ServicePort("http", "TCP", check, 0),)
    model.set_service(service(name="plain", cluster_ips=("10.96.0.2",)))
    model.set_service(service(name="greedy", ports=port, external_ips=(OWN, OTHER)))
    assert [ip(OWN), ip(OTHER)] == external(model.take().changes.services[_id("greedy", port[0])])
    balanced = service(
        name="lb", type="LoadBalancer", external_policy="Local", health_check_node_port=check
    )
    compiled.clear()
    model.set_service(balanced)
    step = model.take()
    assert [ip(OTHER)] == external(step.changes.services[_id("greedy", port[0])])
    assert any(f"needs port {check}/TCP" in problem.message for problem in step.problems)
    assert {"greedy", "lb"} == set(compiled)
    model.remove_service(balanced.key)
    assert [ip(OWN), ip(OTHER)] == external(model.take().changes.services[_id("greedy", port[0])])


def _id(name: str, port: ServicePort) -> ServicePortId:
    return ServicePortId("service", "default", name, port.name, 6, 4)


def test_a_family_without_ranges_stays_open(model: ClusterModel) -> None:
    """[F9] Ranges of the other family filter nothing, not even with the node in them."""
    model.set_node_ips([ip(OWN)])
    both = service(
        cluster_ips=("10.96.0.1", "fd00::1"),
        ip_families=("IPv4", "IPv6"),
        ports=(HTTP,),
        type="LoadBalancer",
        ingress=(Ingress("198.51.100.1", "VIP"), Ingress("2001:db8::1", "VIP")),
        source_ranges=("192.0.2.0/24",),
    )
    model.set_service(both)
    given = model.take().changes.services
    six = given[ServicePortId("service", "default", "web", "http", 6, 6)]
    assert six is not None and () == six.source_ranges
