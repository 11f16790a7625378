# SPDX-License-Identifier: Apache-2.0
"""Names and addresses of a sandbox follow from its name, index and topology."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from kubeproxy_bpf.sandbox.layout import MAX_INDEX, TOPOLOGIES, Layout, check_name
from kubeproxy_bpf.sandbox.topology import forwarding_entries, settings, wiring


def _all_addresses(layout: Layout) -> list[str]:
    return [str(ip_address(a)) for place in layout.places for a in layout.addresses(place)]


def test_no_two_places_share_an_address() -> None:
    """Every place has addresses of its own, also against every other sandbox."""
    found = [
        a for index in range(MAX_INDEX + 1) for a in _all_addresses(Layout("x", index, "vxlan"))
    ]
    assert len(found) == len(set(found))


@pytest.mark.parametrize("index", [0, 9, MAX_INDEX])
def test_pods_lie_in_the_ranges_that_are_announced(index: int) -> None:
    """A pod's addresses lie in its node's pod range, and that one in the pods' network."""
    layout = Layout("x", index, "routed")
    nodes = {node.name: node for node in layout.nodes}
    for pod in layout.pods:
        cidrs = nodes[pod.node].pod_cidrs
        for address, cidr, network in zip(pod.addresses, cidrs, layout.pod_network):
            assert ip_address(address) in ip_network(cidr)
            assert ip_network(cidr).subnet_of(ip_network(network))


def test_nodes_and_client_are_outside_the_pods_network() -> None:
    """What is no pod does not look like one."""
    layout = Layout("x", 3, "routed")
    for place in ("net", "node1", "node2", "client"):
        for address, network in zip(layout.addresses(place), layout.pod_network):
            assert ip_address(address) not in ip_network(network)


def test_parents_of_groups_come_first() -> None:
    """Groups are listed so that each can be made after its parent."""
    groups = Layout("x", 0, "routed").cgroups
    for position, group in enumerate(groups[1:], start=1):
        assert group.rpartition("/")[0] in groups[:position]


def test_node_group_holds_the_node_and_its_pods_only() -> None:
    """Hooks on a node's group see the node's own processes and its pods, and nobody else."""
    layout = Layout("x", 0, "routed")
    inside = {p for p in layout.places if layout.cgroup(p).startswith(layout.node_cgroup("node1"))}
    assert inside == {"node1", *(pod.name for pod in layout.pods_of("node1"))}


@pytest.mark.parametrize("name", ["kpb", "a", "two-nodes", "x" * 20])
def test_good_names(name: str) -> None:
    """Short lower-case names are taken."""
    assert check_name(name) is None


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "..", "a b", "x" * 21, "1a"])
def test_bad_names(name: str) -> None:
    """A name that could leave its directory or not be a device or group name is refused."""
    assert check_name(name)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_device_names_fit_the_kernel(topology: str) -> None:
    """No device name is longer than the 15 bytes that the kernel keeps."""
    layout = Layout("x" * 20, 0, topology)  # type: ignore[arg-type]
    lines = [line.split() for batch in wiring(layout).values() for line in batch]
    names = [words[3] for words in lines if words[:3] == ["link", "add", "name"]]
    assert names and max(map(len, names)) <= 15


def test_only_routers_forward() -> None:
    """The wire and the nodes forward; pods and the client do not."""
    layout = Layout("x", 0, "routed")
    forwards = {p for p in layout.places if settings(p, layout)["net/ipv4/ip_forward"] == "1"}
    assert forwards == {"net", "node1", "node2"}


def test_overlay_exists_in_its_own_shape_only() -> None:
    """VXLAN devices and their entries belong to the vxlan shape."""
    for topology in TOPOLOGIES:
        layout = Layout("x", 0, topology)
        text = "\n".join(line for batch in wiring(layout).values() for line in batch)
        assert ("type vxlan" in text) == bool(forwarding_entries(layout)) == (topology == "vxlan")
