# SPDX-License-Identifier: Apache-2.0
"""Which entries of connection tracking are deleted, and when anybody looks [J1-J6]."""

import pytest

from kubeproxy_bpf.host.ctnetlink import Entry
from kubeproxy_bpf.host.stale import UdpServices
from kubeproxy_bpf.model.addresses import parse_address
from kubeproxy_bpf.model.types import (
    BackendSpec,
    Changes,
    Desired,
    Family,
    FrontendSpec,
    Protocol,
    ServicePortId,
)
from kubeproxy_bpf.plan.records import FrontendFlags, FrontendKind

DNS = ServicePortId("service", "kube-system", "dns", "dns", Protocol.UDP, Family.IPV4)
LOG = ServicePortId("service", "default", "log", "", Protocol.UDP, Family.IPV4)
WILDCARD = {Family.IPV4: "0.0.0.0", Family.IPV6: "::"}


def end(text):
    address, _, port = text.rpartition(":")
    return parse_address(address.strip("[]")), int(port)


def entry(destination, answered_by):
    return Entry(end(destination), end(answered_by), destination.encode())


def frontend(kind, text):
    address, port = end(text)
    return FrontendSpec(address, port, int(Protocol.UDP), kind, int(FrontendFlags.EXTERNAL))


def desired(*backends, cluster_ip="10.96.0.10:53", external=(), balancer=(), node_port=0):
    frontends = [frontend(FrontendKind.CLUSTER_IP, cluster_ip)]
    frontends += [frontend(FrontendKind.EXTERNAL_IP, text) for text in external]
    frontends += [frontend(FrontendKind.LOAD_BALANCER, text) for text in balancer]
    if node_port:
        wildcard = "[::]" if "[" in cluster_ip else "0.0.0.0"
        frontends.append(frontend(FrontendKind.NODE_PORT, f"{wildcard}:{node_port}"))
    specs = tuple(BackendSpec(*end(text), int(Protocol.UDP), 0) for text in backends)
    return Desired(tuple(frontends), specs, len(specs), 0, 0, 0, 0)


def services(**ports):
    known = UdpServices()
    named = {"dns": DNS, "log": LOG}
    known.note(Changes({named[name]: value for name, value in ports.items()}, {}, True))
    return known


@pytest.mark.parametrize(
    "destination, answered_by, stale",
    [
        ("10.96.0.10:53", "10.1.0.1:5353", False),
        ("10.96.0.10:53", "10.1.0.2:5353", False),
        ("10.96.0.10:53", "10.1.0.9:5353", True),
        ("10.96.0.10:53", "10.1.0.1:53", True),
        ("10.96.0.10:53", "10.96.0.10:53", True),
        ("192.0.2.1:53", "10.1.0.9:5353", True),
        ("192.0.2.2:53", "10.1.0.9:5353", True),
        ("192.0.2.2:53", "10.1.0.2:5353", False),
        ("172.18.0.2:30053", "10.1.0.9:5353", True),
        ("203.0.113.7:30053", "203.0.113.7:30053", True),
        ("172.18.0.2:30053", "10.1.0.1:5353", False),
        ("10.96.0.10:54", "10.1.0.9:5353", False),
        ("10.96.0.11:53", "10.1.0.9:5353", False),
        ("10.1.0.9:5353", "10.1.0.9:5353", False),
    ],
)
def test_entries_of_ours_that_no_endpoint_answers_are_stale(destination, answered_by, stale):
    """Cluster, external, load-balancer IP and port, or a node port on any address [J2, J5]."""
    known = services(
        dns=desired(
            "10.1.0.1:5353",
            "10.1.0.2:5353",
            external=["192.0.2.1:53"],
            balancer=["192.0.2.2:53"],
            node_port=30053,
        )
    )

    assert stale is known.wanted(Family.IPV4).is_stale(entry(destination, answered_by))


def test_service_without_endpoints_keeps_its_entries():
    """Nothing better awaits them [J3]."""
    known = services(dns=desired(node_port=30053))
    wanted = known.wanted(Family.IPV4)

    assert not wanted.is_stale(entry("10.96.0.10:53", "10.1.0.9:5353"))
    assert not wanted.is_stale(entry("172.18.0.2:30053", "10.1.0.9:5353"))
    assert set() == wanted.ports


@pytest.mark.parametrize(
    "changes",
    [Changes({DNS: None}, {}), Changes({LOG: desired(cluster_ip="10.96.0.11:1")}, {}, True)],
)
def test_deleted_service_keeps_its_entries(changes):
    """Whether it is named as gone, or is not there any more when all is told [J4]."""
    known = services(dns=desired("10.1.0.1:5353"))

    assert set() == known.note(changes)

    assert not known.wanted(Family.IPV4).is_stale(entry("10.96.0.10:53", "10.1.0.9:5353"))


def test_families_are_judged_by_their_own_services():
    """The same node port in both families leads to the endpoints of each."""
    six = DNS._replace(family=Family.IPV6)
    known = UdpServices()
    known.note(
        Changes(
            {
                DNS: desired("10.1.0.1:5353", node_port=30053),
                six: desired("[fd00::1]:5353", cluster_ip="[fd96::a]:53", node_port=30053),
            },
            {},
        )
    )

    ours = entry("[fd00::99]:30053", "[fd00::1]:5353")

    assert not known.wanted(Family.IPV6).is_stale(ours)
    assert {53, 30053} == known.wanted(Family.IPV6).ports
    assert known.wanted(Family.IPV4).is_stale(ours)


def test_address_of_a_service_goes_before_a_node_port_of_its_number():
    """A cluster IP's port may be the node port of another Service."""
    known = services(
        dns=desired("10.1.0.1:5353", cluster_ip="10.96.0.10:30000"),
        log=desired("10.1.0.2:514", cluster_ip="10.96.0.11:514", node_port=30000),
    )
    wanted = known.wanted(Family.IPV4)

    assert not wanted.is_stale(entry("10.96.0.10:30000", "10.1.0.1:5353"))
    assert wanted.is_stale(entry("10.96.0.10:30000", "10.1.0.2:514"))


@pytest.mark.parametrize(
    "after, looked_at",
    [
        (desired("10.1.0.1:5353", "10.1.0.2:5353"), True),
        (desired("10.1.0.2:5353"), True),
        (desired("10.1.0.1:5354"), True),
        (desired(), True),
        (desired("10.1.0.1:5353", external=["192.0.2.1:53"]), False),
        (desired("10.1.0.1:5353"), False),
    ],
)
def test_changes_of_endpoints_call_for_a_look_and_those_of_the_service_do_not(after, looked_at):
    """[J1]"""
    known = services(dns=desired("10.1.0.1:5353"))

    assert ({Family.IPV4} if looked_at else set()) == known.note(Changes({DNS: after}, {}))


def test_new_service_port_with_endpoints_calls_for_a_look():
    """They may have been there before it."""
    assert {Family.IPV4} == UdpServices().note(Changes({DNS: desired("10.1.0.1:5353")}, {}))


@pytest.mark.parametrize(
    "other",
    [
        DNS._replace(protocol=Protocol.TCP),
        DNS._replace(protocol=Protocol.SCTP),
        DNS._replace(source="pod"),
    ],
)
def test_other_protocols_and_host_ports_are_none_of_it(other):
    """TCP and SCTP are never deleted [J6]; host ports are the runtime's business."""
    known = UdpServices()

    assert set() == known.note(Changes({other: desired("10.1.0.1:5353")}, {}))

    assert set() == known.wanted(Family.IPV4).ports
