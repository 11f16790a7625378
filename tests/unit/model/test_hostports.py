# SPDX-License-Identifier: Apache-2.0
"""Host ports of a Pod, compiled on their own; the scenarios of tests/golden show the rest."""

import pytest

from kubeproxy_bpf.api.objects import HostPort, Pod
from kubeproxy_bpf.model.facts import ModelConfig, NodeFacts
from kubeproxy_bpf.model.hostports import compile_pod
from kubeproxy_bpf.model.types import Family
from kubeproxy_bpf.plan.records import BackendFlags
from tests.fix_objects import NODE, ip, pod

PORT = HostPort("", 8000, 80, "TCP")
CONFIG = ModelConfig(NODE)


def served(value: Pod) -> list[str]:
    ports, _ = compile_pod(value, NodeFacts(), CONFIG)
    return [f"{port_id.port_name}/{port_id.family}" for port_id in ports]


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({}, True),
        ({"phase": "Pending"}, True),
        ({"phase": "Unknown"}, True),
        ({"deleting": True}, True),
        ({"phase": "Succeeded"}, False),
        ({"phase": "Failed"}, False),
        ({"host_network": True}, False),
        ({"node": "node-b"}, False),
        ({"pod_ips": ()}, False),
        ({"host_ports": ()}, False),
    ],
)
def test_which_pods_are_served(fields: dict[str, object], expected: bool) -> None:
    """On this node, with an address, not finished, not in the host's network; or deleting."""
    assert bool(served(pod(PORT)._replace(**fields))) is expected


@pytest.mark.parametrize(
    "host_ip, expected",
    [
        ("", ["*:8000/4", "*:8000/6"]),
        ("0.0.0.0", ["*:8000/4"]),
        ("::", ["*:8000/6"]),
        ("127.0.0.1", ["127.0.0.1:8000/4"]),
        ("::1", ["::1:8000/6"]),
        ("fd00::9", ["fd00::9:8000/6"]),
        ("127.0.0.2", []),
        ("224.0.0.1", []),
        ("255.255.255.255", []),
        ("host", []),
    ],
)
def test_host_ip_chooses_address_and_family(host_ip: str, expected: list[str]) -> None:
    """[L2] None means all addresses of all families, an unspecified one all of its family."""
    value = pod(PORT._replace(host_ip=host_ip), pod_ips=("10.244.1.9", "fd00:1::9"))
    assert served(value) == expected


def test_the_first_address_of_each_family_is_the_backend() -> None:
    """A bad address is reported and passed over; one on the node itself is marked."""
    value = pod(PORT, pod_ips=("nonsense", "127.0.0.1", "10.244.1.9", "10.244.1.10"))
    ports, problems = compile_pod(value, NodeFacts(local=frozenset({ip("10.244.1.9")})), CONFIG)
    (desired,) = ports.values()
    (backend,) = desired.backends
    assert backend[:3] == (ip("10.244.1.9"), 80, 6)
    assert backend.flags == BackendFlags.LOCAL | BackendFlags.HOST
    assert [problem.message for problem in problems] == [
        "'nonsense' is no IP address; not used",
        "'127.0.0.1' is loopback; not used",
    ]


def test_families_of_the_node_only() -> None:
    """[I4] On an IPv4 node a host IP of IPv6 is nothing to serve, and no problem."""
    value = pod(PORT, PORT._replace(host_ip="::1"), pod_ips=("10.244.1.9", "fd00:1::9"))
    ports, problems = compile_pod(value, NodeFacts(), CONFIG._replace(families=(Family.IPV4,)))
    assert [port_id.family for port_id in ports] == [4] and not problems


def test_the_same_host_port_twice_is_one() -> None:
    """Two containers that name the same host port: the first one has it."""
    ports, _ = compile_pod(pod(PORT, PORT._replace(container_port=81)), NodeFacts(), CONFIG)
    (desired,) = ports.values()
    assert desired.backends[0].port == 80
