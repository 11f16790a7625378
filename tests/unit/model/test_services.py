# SPDX-License-Identifier: Apache-2.0
"""A Service, judged on its own; the scenarios of tests/golden show the rest."""

import pytest

from kubeproxy_bpf.api.objects import Ingress, Service, ServicePort
from kubeproxy_bpf.model.desired import compile_service
from kubeproxy_bpf.model.facts import ModelConfig, NodeFacts
from kubeproxy_bpf.model.problems import Report
from kubeproxy_bpf.model.services import (
    ALGORITHM,
    FamilyView,
    SetsInUse,
    affinity_timeout_s,
    external_local,
    family_views,
    is_consistent,
    is_served,
    ports_of,
    sets_in_use,
)
from kubeproxy_bpf.model.types import Family
from tests.fix_objects import HTTP, NODE, ip, service

CONFIG = ModelConfig(NODE)


def views(value: Service, config: ModelConfig = CONFIG) -> tuple[list[FamilyView], list[str]]:
    report = Report("Service", value.namespace, value.name)
    found = family_views(value, config, report)
    return found, [f"{problem.field}: {problem.message}" for problem in report.problems]


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({}, True),
        ({"cluster_ip": ""}, False),
        ({"cluster_ip": "None"}, False),
        ({"type": "ExternalName"}, False),
        ({"proxy_name": ""}, False),
        ({"proxy_name": "other"}, False),
    ],
)
def test_which_services_are_served(fields: dict[str, str], expected: bool) -> None:
    """[A1-A4] Headless, ExternalName and other proxies' Services are not ours."""
    assert is_served(service(**fields)) is expected


def test_cluster_ip_alone_counts_without_families() -> None:
    """[A9] spec.clusterIP is looked at where ipFamilies is absent, and nowhere else."""
    bare = service(ip_families=(), cluster_ips=(), cluster_ip="fd00::1")
    assert [view.family for view in views(bare)[0]] == [Family.IPV6]
    named = service(ip_families=("IPv4",), cluster_ips=(), cluster_ip="10.96.0.1")
    assert views(named) == ([], [])


def test_family_without_a_cluster_ip_is_skipped_without_a_word() -> None:
    """[A8] A missing or "None" entry is no problem, only no family."""
    value = service(ip_families=("IPv4", "IPv6"), cluster_ips=("10.96.0.1", "None"))
    found, problems = views(value)
    assert [view.family for view in found] == [Family.IPV4] and problems == []


def test_impossible_cluster_ip_is_one_problem() -> None:
    """Both families look at a bare spec.clusterIP, but its reader sees one problem."""
    bare = service(ip_families=(), cluster_ips=(), cluster_ip="nonsense")
    assert views(bare) == ([], ["spec.clusterIP: 'nonsense' is no IP address; family not served"])
    only_6 = CONFIG._replace(families=(Family.IPV6,))
    assert len(views(bare, only_6)[1]) == 1


def test_wrong_family_is_named() -> None:
    """A cluster IP that is not of the family that ipFamilies names is refused."""
    value = service(ip_families=("IPv6",), cluster_ips=("10.96.0.1",))
    assert views(value)[1] == [
        "spec.clusterIPs[0]: '10.96.0.1' is no IPv6 address; family not served"
    ]


def test_addresses_are_taken_once_and_by_family() -> None:
    """[F1-F4, I6] Each address once, in its family; host names and mode Proxy are nothing."""
    value = service(
        external_ips=("203.0.113.7", "203.0.113.07", "2001:db8::7", ""),
        ingress=(Ingress("198.51.100.1", "VIP"), Ingress("198.51.100.2", "Proxy"), Ingress("", "")),
    )
    (view,), problems = views(value)
    assert view.external_ips == (ip("203.0.113.7"),)
    assert view.load_balancer_ips == (ip("198.51.100.1"),)
    assert problems == []


@pytest.mark.parametrize(
    "ranges, kept",
    [
        ((), 0),
        (("192.0.2.0/24",), 1),
        ((" 192.0.2.0/24 ", "198.51.100.0/024"), 2),
        (("192.0.2.0/24", "0.0.0.0/0"), 0),
        (("2001:db8::/32",), 0),
        (("192.0.2.0/24", "::/0"), 1),
        (("", " "), 0),
    ],
)
def test_source_ranges_that_restrict(ranges: tuple[str, ...], kept: int) -> None:
    """[F5, F8, F9] Only ranges of the family restrict it, and a /0 lifts them all."""
    (view,), problems = views(service(source_ranges=ranges))
    assert len(view.source_ranges) == kept and problems == []


def test_bad_source_range_is_reported_and_not_counted() -> None:
    """A range that cannot be read does not widen the others."""
    (view,), problems = views(service(source_ranges=("192.0.2.0/24", "nonsense")))
    assert len(view.source_ranges) == 1
    assert problems == ["spec.loadBalancerSourceRanges[1]: 'nonsense' is no CIDR; not counted"]


@pytest.mark.parametrize(
    "internal, external, kind, node_port, expected",
    [
        ("Cluster", "Cluster", "ClusterIP", 0, SetsInUse(True, False)),
        ("Local", "Cluster", "ClusterIP", 0, SetsInUse(False, True)),
        ("Local", "Cluster", "NodePort", 30080, SetsInUse(True, True)),
        ("Cluster", "Local", "NodePort", 30080, SetsInUse(True, True)),
        ("Cluster", "Local", "LoadBalancer", 0, SetsInUse(True, False)),
        ("Cluster", "Local", "ClusterIP", 0, SetsInUse(True, False)),
        ("Local", "Local", "NodePort", 30080, SetsInUse(True, True)),
    ],
)
def test_policies_choose_the_sets(
    internal: str, external: str, kind: str, node_port: int, expected: SetsInUse
) -> None:
    """[C1, C2] A set is kept where some way into the Service uses it."""
    value = service(
        internal_policy=internal,
        external_policy=external,
        type=kind,
        ports=(HTTP._replace(node_port=node_port),),
    )
    report = Report("Service", "default", "web")
    (view,), (port,) = family_views(value, CONFIG, report), ports_of(value, report)
    assert sets_in_use(value, view, port) == expected


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"type": "NodePort"}, True),
        ({"type": "LoadBalancer"}, True),
        ({"type": "ClusterIP"}, False),
        ({"type": "ClusterIP", "external_ips": ("203.0.113.7",)}, True),
        ({"type": "NodePort", "external_policy": "Cluster"}, False),
    ],
)
def test_external_policy_counts_where_there_is_an_outside(
    fields: dict[str, str], expected: bool
) -> None:
    """[C8]"""
    assert external_local(service(**({"external_policy": "Local"} | fields))) is expected


@pytest.mark.parametrize(
    "affinity, timeout, expected",
    [("None", 600, 0), ("ClientIP", 600, 600), ("ClientIP", 0, 10800), ("ClientIP", -1, 10800)]
    + [("ClientIP", 86400, 86400), ("ClientIP", 86401, 86400), ("ClientIP", 1 << 64, 86400)],
)
def test_affinity_timeout(affinity: str, timeout: int, expected: int) -> None:
    """[G1, G4] Three hours where no usable time-out is given, a day at most."""
    assert affinity_timeout_s(service(affinity=affinity, affinity_timeout_s=timeout)) == expected


@pytest.mark.parametrize(
    "port, problem",
    [
        (ServicePort("a", "ICMP", 80, 0), "spec.ports[0].protocol"),
        (ServicePort("a", "tcp", 80, 0), "spec.ports[0].protocol"),
        (ServicePort("a", "TCP", 0, 0), "spec.ports[0].port"),
        (ServicePort("a", "TCP", 65536, 0), "spec.ports[0].port"),
    ],
)
def test_impossible_ports_are_left_out(port: ServicePort, problem: str) -> None:
    """The other ports of the Service are served."""
    report = Report("Service", "default", "web")
    found = ports_of(service(ports=(port, HTTP)), report)
    assert [p.name for p in found] == ["http"]
    assert [p.field for p in report.problems] == [problem]


def test_impossible_node_port_keeps_the_port() -> None:
    """The cluster IP is served without it."""
    report = Report("Service", "default", "web")
    (port,) = ports_of(service(ports=(HTTP._replace(node_port=-1),)), report)
    assert port.node_port == 0 and report.problems[0].field == "spec.ports[0].nodePort"


def test_same_name_with_another_protocol_is_another_port() -> None:
    """[A10, I1] The protocol is part of the key; the same pair twice is reported."""
    ports = (HTTP, HTTP._replace(protocol="UDP"), HTTP._replace(protocol="SCTP"), HTTP)
    report = Report("Service", "default", "web")
    assert [port.protocol for port in ports_of(service(ports=ports), report)] == [6, 17, 132]
    assert [problem.field for problem in report.problems] == ["spec.ports[3].name"]


@pytest.mark.parametrize(
    "text, default, expected",
    [
        (None, False, False),
        (None, True, True),
        ("random", True, False),
        ("maglev", False, True),
        ("rendezvous", False, True),
        ("consistent", False, True),
        ("Maglev", False, False),
        ("", True, True),
    ],
)
def test_the_annotation_decides_how_backends_are_chosen(
    text: str | None, default: bool, expected: bool
) -> None:
    """What it does not name is a problem and leaves the instance's default."""
    annotations = () if text is None else ((ALGORITHM, text),)
    report = Report("Service", "default", "web")
    config = CONFIG._replace(consistent_default=default)
    assert is_consistent(service(annotations=annotations), config, report) is expected
    invalid = text in ("Maglev", "")
    field = "metadata.annotations[kubeproxy-bpf.io/algorithm]"
    assert [problem.field for problem in report.problems] == [field] * invalid


def test_sctp_is_noted_once_and_served() -> None:
    """Two ports of SCTP are one note, which is no problem."""
    ports = (ServicePort("a", "SCTP", 80, 0), ServicePort("b", "SCTP", 81, 0), HTTP)
    compiled, problems = compile_service(service(ports=ports), (), NodeFacts(), CONFIG)
    assert 3 == len(compiled)
    assert [("spec.ports", True)] == [(problem.field, problem.note) for problem in problems]
