# SPDX-License-Identifier: Apache-2.0
"""Which of the node's addresses serve node ports."""

import pytest

from kubeproxy_bpf.model.types import Family
from kubeproxy_bpf.node.addresses import NodePortPolicy, node_addresses
from tests.fix_objects import ip

EVERYTHING = ["192.168.0.1", "10.1.0.1", "fd00::1", "127.0.0.1", "::1"]


def served(policy: NodePortPolicy) -> list[str]:
    return [text for text in EVERYTHING if policy.serves(ip(text))]


def test_by_default_all_addresses_serve() -> None:
    """[F12, F15] No restriction: every local address, loopback too."""
    assert served(NodePortPolicy()) == EVERYTHING


def test_loopback_serves_only_where_wanted() -> None:
    """[F15] localhostNodePorts=false takes loopback out, in both families."""
    assert served(NodePortPolicy(localhost=False)) == ["192.168.0.1", "10.1.0.1", "fd00::1"]


@pytest.mark.parametrize(
    "cidrs, expected",
    [
        (["192.168.0.0/16"], ["192.168.0.1", "fd00::1", "::1"]),
        (["192.168.0.0/16", "127.0.0.0/8"], ["192.168.0.1", "fd00::1", "127.0.0.1", "::1"]),
        (["fd00::/8"], ["192.168.0.1", "10.1.0.1", "fd00::1", "127.0.0.1"]),
        (["192.168.0.0/16", "0.0.0.0/0"], EVERYTHING),
        (["172.16.0.0/12", "fc00::/8"], []),
        (["192.168.000.1/032", "fe80::/10"], ["192.168.0.1"]),
    ],
)
def test_cidrs_restrict_their_own_family(cidrs: list[str], expected: list[str]) -> None:
    """[F13, F17, I7] A family without a CIDR, or with a /0, is not restricted."""
    assert served(NodePortPolicy(cidrs)) == expected


def test_primary_means_the_node_ips() -> None:
    """[F14] A family without a node IP, or with a loopback one, is not restricted."""
    assert served(NodePortPolicy(["primary"], [ip("192.168.0.1"), ip("fd00::1")])) == [
        "192.168.0.1",
        "fd00::1",
    ]
    assert served(NodePortPolicy(["primary"], [ip("127.0.0.1"), ip("fd00::1")])) == [
        "192.168.0.1",
        "10.1.0.1",
        "fd00::1",
        "127.0.0.1",
    ]


def test_node_addresses_leave_out_what_is_not_the_nodes() -> None:
    """VIPs on kube-ipvs0 are not the node's; 127.0.0.1 stands for all of 127/8."""
    devices = [
        ("lo", ip("127.0.0.53")),
        ("eth0", ip("192.168.0.1")),
        ("eth0", ip("10.1.0.1")),
        ("kube-ipvs0", ip("10.96.0.1")),
        ("odd0", ip("0.0.0.0")),
    ]
    found = node_addresses(devices, NodePortPolicy(["192.168.0.0/16"], localhost=False))
    assert found.local == {ip(t) for t in ("127.0.0.1", "::1", "192.168.0.1", "10.1.0.1")}
    assert found.node_port == {ip("192.168.0.1")}


def test_families_without_support_have_no_loopback() -> None:
    """[I4] Without IPv6 there is no ::1 to serve on."""
    assert node_addresses([], NodePortPolicy(), [Family.IPV4]).local == {ip("127.0.0.1")}


def test_health_checks_listen_everywhere_unless_a_cidr_restricts_them() -> None:
    """Then on the node's matching addresses; a family without a CIDR is not restricted."""
    addresses = [ip("192.168.0.1"), ip("10.1.0.1"), ip("fd00::1"), ip("fe80::1")]
    assert {Family.IPV4: None, Family.IPV6: None} == NodePortPolicy().listens(addresses)
    policy = NodePortPolicy(["192.168.0.0/16", "172.16.0.0/12"])
    expected = {Family.IPV4: {"192.168.0.1"}, Family.IPV6: None}
    assert expected == policy.listens(addresses)
    policy = NodePortPolicy(["0.0.0.0/0", "fe80::/10"])
    assert {Family.IPV4: None, Family.IPV6: set()} == policy.listens(addresses)


def test_health_checks_listen_on_loopback_if_a_cidr_holds_it() -> None:
    """Whatever localhostNodePorts says: that is about node ports."""
    policy = NodePortPolicy(["127.0.0.0/8", "fd00::/8"], localhost=False)
    assert {Family.IPV4: {"127.0.0.1"}, Family.IPV6: {"fd00::1"}} == policy.listens(
        [ip("192.168.0.1"), ip("fd00::1")]
    )
