# SPDX-License-Identifier: Apache-2.0
"""The rule of docs/devices.md: what each kind of device is for the packet path."""

import pytest

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.node.attachment import LocalDevices, Role, attachments, source_address
from kubeproxy_bpf.node.devices import Device, DeviceAddress

ETHERNET, INFINIBAND, LOOPBACK, BARE_IP = 1, 32, 772, 65534


def address(text, *, usable=True):
    name, _, bits = text.partition("/")
    parsed = parse_address(name)
    return DeviceAddress(parsed, int(bits) + (0 if ":" in name else 96), usable)


def device(
    name, kind="", *addresses, ifindex=10, master=0, link_type=ETHERNET, up=True, away=False
):
    return Device(
        ifindex,
        name,
        kind,
        link_type,
        bytes(6),
        1500,
        up,
        master,
        away,
        tuple(a if isinstance(a, DeviceAddress) else address(a) for a in addresses),
    )


def roles(*devices, uplinks=()):
    return {item.device.name: item.role for item in attachments(devices, uplinks)}


ALONE = {
    "loopback": (device("lo", "", "127.0.0.1/8", link_type=LOOPBACK), Role.LOOPBACK),
    "physical with an address": (device("eth0", "", "192.0.2.1/24"), Role.UPLINK),
    "physical without an address": (device("eth1"), Role.UPLINK),
    "physical, down": (device("eth2", up=False), Role.UPLINK),
    "bond": (device("bond0", "bond"), Role.UPLINK),
    "vlan": (device("eth0.5", "vlan"), Role.UPLINK),
    "macvlan with an address": (device("mac0", "macvlan", "192.0.2.2/24"), Role.UPLINK),
    "macvlan without one": (device("mac0", "macvlan"), Role.NONE),
    "the node is a container": (device("eth0", "veth", "172.18.0.2/16", away=True), Role.UPLINK),
    "the same, IPv6": (device("eth0", "veth", "fd00::2/64", away=True), Role.UPLINK),
    "pod, no address": (device("cali1", "veth", away=True), Role.POD),
    "pod, link-local gateway": (device("v-1", "veth", "169.254.1.1/32", away=True), Role.POD),
    "pod, link-local subnet": (device("v-1", "veth", "fe80::1/64", away=True), Role.POD),
    "pod, gateway shown to it": (device("veth1", "veth", "10.244.1.1/32", away=True), Role.POD),
    "pod, netkit": (device("nk1", "netkit", away=True), Role.POD),
    "pair in one namespace": (device("a", "veth"), Role.NONE),
    "virtual machine": (device("tap1", "tun"), Role.POD),
    "layer 2 VPN": (device("tap0", "tun", "10.8.0.1/24"), Role.UPLINK),
    "layer 3 VPN": (device("tun0", "tun", "10.8.0.1/24", link_type=BARE_IP), Role.OVERLAY),
    "vxlan": (device("flannel.1", "vxlan", "10.244.0.0/32"), Role.OVERLAY),
    "wireguard": (device("wg0", "wireguard", link_type=BARE_IP), Role.OVERLAY),
    "ipip": (device("tunl0", "ipip", link_type=768), Role.OVERLAY),
    "a tunnel that nobody uses": (device("tunl0", "ipip", link_type=768, up=False), Role.NONE),
    "dummy of IPVS": (device("kube-ipvs0", "dummy", "10.96.0.1/32"), Role.NONE),
    "NodeLocal DNSCache": (device("nodelocaldns", "dummy", "169.254.20.10/32"), Role.NONE),
    "bridge without ports": (device("docker0", "bridge", "172.17.0.1/16"), Role.NONE),
    "frames that we cannot read": (device("ib0", "", link_type=INFINIBAND), Role.NONE),
}


@pytest.mark.parametrize("case", ALONE)
def test_a_device_alone(case):
    """Its kind and its addresses decide, not its name."""
    item, expected = ALONE[case]
    assert {item.name: expected} == roles(item)


def test_a_bridge_of_pods_has_its_programs_at_the_ports():
    """What comes from a pod is seen where it enters."""
    bridge = device("cni0", "bridge", "10.244.1.1/24", ifindex=5)
    pods = [device(f"v{n}", "veth", ifindex=n, master=5, away=True) for n in (6, 7)]
    assert {"cni0": Role.NONE, "v6": Role.POD, "v7": Role.POD} == roles(bridge, *pods)


def test_a_bridge_that_leads_out_is_the_uplink_of_the_node():
    """Its physical port is none: the node's address is the bridge's; machines on it stay pods."""
    bridge = device("br0", "bridge", "192.0.2.1/24", ifindex=5)
    port = device("eth0", ifindex=6, master=5)
    machine = device("tap1", "tun", ifindex=7, master=5)
    expected = {"br0": Role.UPLINK, "eth0": Role.NONE, "tap1": Role.POD}
    assert expected == roles(bridge, port, machine)


def test_a_bridge_that_leads_out_without_an_address_is_left_alone():
    """What it only switches is not the node's."""
    bridge = device("br0", "bridge", ifindex=5)
    assert {"br0": Role.NONE, "eth0": Role.NONE} == roles(
        bridge, device("eth0", ifindex=6, master=5)
    )


def test_ports_of_a_bond_are_left_to_it():
    """Each packet is seen once."""
    ports = [device(name, ifindex=n, master=5) for n, name in ((6, "eth0"), (7, "eth1"))]
    seen = roles(device("bond0", "bond", "192.0.2.1/24", ifindex=5), *ports)
    assert {"bond0": Role.UPLINK, "eth0": Role.NONE, "eth1": Role.NONE} == seen


def test_a_vrf_does_not_take_its_members_packets():
    """A member is what it would be alone: the VRF only chooses the routes."""
    vrf = device("blue", "vrf", ifindex=5)
    assert {"blue": Role.NONE, "eth0": Role.UPLINK} == roles(
        vrf, device("eth0", ifindex=6, master=5)
    )


def test_named_uplinks_take_the_place_of_the_search():
    """Names and globs; pods, overlays and loopback are found as ever."""
    devices = (
        device("lo", link_type=LOOPBACK, ifindex=1),
        device("eth0", "", "192.0.2.1/24", ifindex=2),
        device("ens5", "", "192.0.3.1/24", ifindex=3),
        device("br9", "bridge", ifindex=4),
        device("v1", "veth", ifindex=5, away=True),
        device("vx", "vxlan", ifindex=6),
    )
    expected = {
        "lo": Role.LOOPBACK,
        "eth0": Role.NONE,
        "ens5": Role.UPLINK,
        "br9": Role.UPLINK,
        "v1": Role.POD,
        "vx": Role.OVERLAY,
    }
    assert expected == roles(*devices, uplinks=("ens*", "br9"))


@pytest.mark.parametrize(
    ("local", "known"),
    [
        (LocalDevices(), set()),
        (LocalDevices(bridge="cni0"), {"cni0", "v1"}),
        (LocalDevices(prefix="v"), {"v2"}),
        (LocalDevices(prefix="cni"), {"cni0", "v1"}),
    ],
)
def test_the_local_detector_sees_the_bridge_for_its_ports(local, known):
    """As iptables does: the name of a port of a bridge never counts, that of the bridge does."""
    devices = [
        device("cni0", "bridge", "10.244.1.1/24", ifindex=5),
        device("v1", "veth", ifindex=6, master=5, away=True),
        device("v2", "veth", ifindex=7, away=True),
        device("eth0", "", "192.0.2.1/24", ifindex=8),
    ]
    judged = attachments(devices, (), local)
    assert known == {item.device.name for item in judged if item.pod_local}


def test_the_source_address_is_the_first_that_others_can_answer():
    """Neither loopback nor link-local, nor one that is not yet proved to be ours."""
    item = device(
        "eth0",
        "",
        "127.0.0.2/8",
        "169.254.3.4/16",
        "192.0.2.1/24",
        "192.0.2.9/24",
        "fe80::3/64",
        address("fd00::3/64", usable=False),
        "fd00::4/64",
    )
    assert parse_address("192.0.2.1") == source_address(item, ipv4=True)
    assert parse_address("fd00::4") == source_address(item, ipv4=False)
    assert bytes(16) == source_address(device("eth1"), ipv4=True)


def test_an_address_that_stands_alone_is_the_last_choice():
    """Somebody may have added a VIP, which IPv6 would put first."""
    vip = device("eth0", "", "fd00::99/128", "fd00::4/64", "192.0.2.99/32", "192.0.2.1/24")
    assert parse_address("fd00::4") == source_address(vip, ipv4=False)
    assert parse_address("192.0.2.1") == source_address(vip, ipv4=True)
    leased = device("eth0", "", "fd00::5/128")
    assert parse_address("fd00::5") == source_address(leased, ipv4=False)


def test_frames_begin_with_ethernet_or_with_ip():
    """The programs must know what stands first."""
    devices = [
        device("lo", link_type=LOOPBACK, ifindex=1),
        device("eth0", ifindex=2),
        device("tun0", "tun", link_type=BARE_IP, ifindex=3),
    ]
    assert [True, True, False] == [item.ethernet for item in attachments(devices)]
