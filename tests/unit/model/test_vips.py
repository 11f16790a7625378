# SPDX-License-Identifier: Apache-2.0
"""Flags of addresses, counted by their users."""

from kubeproxy_bpf.model.facts import NodeAddresses
from kubeproxy_bpf.model.types import FrontendSpec
from kubeproxy_bpf.model.vips import VipTable
from kubeproxy_bpf.plan.records import FrontendKind, VipFlags
from tests.fix_objects import ip

A = ip("10.96.0.1")


def spec(kind: FrontendKind, address: bytes = A, port: int = 80) -> FrontendSpec:
    return FrontendSpec(address, port, 6, kind, 0)


def test_an_address_stays_while_somebody_uses_it() -> None:
    """Ports come and go; the address goes with its last user."""
    vips = VipTable()
    two = [spec(FrontendKind.CLUSTER_IP), spec(FrontendKind.CLUSTER_IP, port=81)]
    vips.add(two)
    assert vips.take(False) == {A: VipFlags.CLUSTER_IP}
    vips.remove(two[:1])
    assert not vips.has_changes and vips.take(False) == {}
    vips.remove(two[1:])
    assert vips.take(False) == {A: 0}


def test_what_comes_and_goes_between_two_takes_is_nothing() -> None:
    """Touched is not changed."""
    vips = VipTable()
    vips.add([spec(FrontendKind.EXTERNAL_IP)])
    vips.remove([spec(FrontendKind.EXTERNAL_IP)])
    assert vips.has_changes and vips.take(False) == {}


def test_a_cluster_ip_that_is_an_external_ip_too_stays_closed() -> None:
    """Somebody else's external IP does not open the unknown ports of a cluster IP."""
    vips = VipTable()
    vips.add([spec(FrontendKind.CLUSTER_IP), spec(FrontendKind.EXTERNAL_IP, port=81)])
    assert vips.take(False) == {A: VipFlags.CLUSTER_IP}
    vips.remove([spec(FrontendKind.CLUSTER_IP)])
    assert vips.take(False) == {A: VipFlags.EXTERNAL}


def test_wildcard_frontends_make_no_vip() -> None:
    """Node ports and host ports apply to the node's addresses, which stand there anyway."""
    vips = VipTable()
    for wildcard in (ip("0.0.0.0"), ip("::")):
        vips.add([spec(FrontendKind.HOST_PORT, wildcard), spec(FrontendKind.NODE_PORT, wildcard)])
    assert vips.take(True) == {}


def test_a_host_ip_of_the_node_needs_no_flag_of_its_own() -> None:
    """Elsewhere it opens its one port, and no wildcard frontend applies to it."""
    vips = VipTable()
    vips.add([spec(FrontendKind.HOST_PORT)])
    assert vips.take(False) == {A: VipFlags.EXTERNAL}
    vips.set_node(NodeAddresses(frozenset({A})))
    assert vips.take(False) == {A: VipFlags.HOST_PORT}


def test_everything_is_named_again_on_demand() -> None:
    """A complete result names what has flags, and nothing that has none."""
    vips = VipTable()
    vips.set_node(NodeAddresses(frozenset({ip("127.0.0.1")}), frozenset({ip("127.0.0.1")})))
    vips.add([spec(FrontendKind.CLUSTER_IP)])
    first = vips.take(True)
    assert first == vips.take(True)
    assert first[ip("127.0.0.1")] == VipFlags.LOOPBACK | VipFlags.NODE_PORT | VipFlags.HOST_PORT


def test_a_node_address_that_is_a_vip_keeps_its_node_ports() -> None:
    """Flags stand side by side; the last Service leaves what was there before."""
    vips = VipTable()
    own = VipFlags.NODE_PORT | VipFlags.HOST_PORT
    vips.set_node(NodeAddresses(frozenset({A}), frozenset({A})))
    vips.add([spec(FrontendKind.LOAD_BALANCER), spec(FrontendKind.EXTERNAL_IP, port=81)])
    assert vips.take(False) == {A: VipFlags.EXTERNAL | own}
    vips.remove([spec(FrontendKind.LOAD_BALANCER), spec(FrontendKind.EXTERNAL_IP, port=81)])
    assert vips.take(False) == {A: own}


def test_a_host_ip_that_is_a_cluster_ip_opens_nothing() -> None:
    """Any Pod may name one; the ports that the Service lacks stay refused."""
    vips = VipTable()
    vips.add([spec(FrontendKind.CLUSTER_IP), spec(FrontendKind.HOST_PORT, port=9999)])
    assert vips.take(False) == {A: VipFlags.CLUSTER_IP}
