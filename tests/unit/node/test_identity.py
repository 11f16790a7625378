# SPDX-License-Identifier: Apache-2.0
"""Who the node is: its primary addresses, its pods, and the CIDRs of Services."""

import pytest

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.api.objects import Node
from kubeproxy_bpf.config.load import load
from kubeproxy_bpf.model.addresses import parse_prefix
from kubeproxy_bpf.node.devices import LocalAddress
from kubeproxy_bpf.node.identity import node_facts, node_ips


def a_node(*addresses, pod_cidrs=()):
    return Node("n1", "", tuple(pod_cidrs), tuple(addresses), False, ())


def local(**devices):
    return [
        LocalAddress(parse_address(text), name.replace("_", "-"))
        for name, texts in devices.items()
        for text in texts.split()
    ]


def facts(*argv, node=None, addresses=(), cidrs=()):
    return node_facts(load(list(argv)), node, addresses, cidrs)


def test_node_ips_prefer_internal_addresses_and_the_bind_address():
    """K3: InternalIP, then ExternalIP, one per family; a specific bindAddress wins its family."""
    node = a_node(
        ("ExternalIP", "203.0.113.1"), ("InternalIP", "192.0.2.1"), ("ExternalIP", "2001:db8::1")
    )

    def expected(*texts):
        return tuple(map(parse_address, texts))

    assert expected("192.0.2.1", "2001:db8::1") == node_ips(node, "0.0.0.0")
    assert expected("192.0.2.9", "2001:db8::1") == node_ips(node, "192.0.2.9")
    assert () == node_ips(None, "::")


def test_the_nodes_ip_is_what_masqueraded_flows_come_from():
    """K3 decides among the addresses that the node has, not the order of its devices."""
    node = a_node(("InternalIP", "192.0.2.7"), ("InternalIP", "2001:db8::7"))
    found = facts(
        node=node, addresses=local(eth0="10.0.0.1 2001:db8::1", eth1="192.0.2.7 2001:db8::7")
    )

    assert (parse_address("192.0.2.7"), parse_address("2001:db8::7")) == (found.ipv4, found.ipv6)


def test_an_address_that_no_device_has_is_not_used():
    """A cloud's public address is named in the Node and carried by a router: answers to it would
    not come back to where the flow is known."""
    node = a_node(("ExternalIP", "203.0.113.1"))

    assert parse_address("10.0.0.1") == facts(node=node, addresses=local(eth0="10.0.0.1")).ipv4


def test_without_a_node_a_global_address_of_an_uplink_stands_in():
    """Neither loopback nor link-local addresses reach anybody."""
    found = facts(addresses=local(lo="127.0.0.1 10.9.9.9", eth0="169.254.0.1 fe80::1 10.0.0.1"))

    assert parse_address("10.0.0.1") == found.ipv4
    assert found.ipv6 is None


def test_the_first_cluster_cidr_of_a_family_detects_pods():
    """In ClusterCIDR mode a family without a CIDR has no detector [E10]."""
    found = facts("--cluster-cidr=fd00:10::/56,10.244.0.0/16")

    assert (parse_prefix("10.244.0.0/16"), parse_prefix("fd00:10::/56")) == (
        found.pods_ipv4,
        found.pods_ipv6,
    )
    assert facts("--cluster-cidr=10.0.0.0/8").pods_ipv6 is None


def test_in_node_cidr_mode_the_nodes_own_pods_are_told_apart():
    """The first podCIDR of each family counts, and none before the Node is known."""
    mode = "--detect-local-mode=NodeCIDR"
    node = a_node(pod_cidrs=("10.244.1.0/24", "10.244.2.0/24"))

    found = facts(mode, "--cluster-cidr=10.0.0.0/8", node=node)
    assert (parse_prefix("10.244.1.0/24"), None) == (found.pods_ipv4, found.pods_ipv6)
    assert facts(mode).pods_ipv4 is None


@pytest.mark.parametrize(
    "argv",
    [
        ["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"],
        ["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth"],
    ],
)
def test_the_modes_by_device_have_no_cidr(argv):
    """There the device says that a packet is a pod's."""
    found = facts(*argv, "--cluster-cidr=10.0.0.0/8", node=a_node(pod_cidrs=("10.1.0.0/24",)))

    assert (None, None) == (found.pods_ipv4, found.pods_ipv6)


def test_service_cidrs_hold_each_address_once_and_the_widest_first():
    """What lies in another takes no room; nor does what is no CIDR."""
    found = facts(
        cidrs=["10.96.1.0/24", "10.96.0.0/16", "nonsense", "fd00::/108", "10.96.0.0/16"]
    ).service_cidrs

    assert (parse_prefix("fd00::/108"), parse_prefix("10.96.0.0/16")) == found
