# SPDX-License-Identifier: Apache-2.0
"""Which programs belong on which device, by kind: the table of ``docs/devices.md`` as code.

Pure: devices come in, one ``Attachment`` for each goes out. It attaches nothing; ``packets`` does,
whenever ``node.devices`` saw a change.
"""

from __future__ import annotations

from enum import Enum
from fnmatch import fnmatchcase
from typing import Iterable, Mapping, NamedTuple, Sequence

from kubeproxy_bpf.api.addresses import is_ipv4
from kubeproxy_bpf.node.devices import Device

_ETHERNET = 1
_LOOPBACK = 772
# Frames that begin with the IP header: PPP, RAWIP, tunnels, SIT, GRE of both families, NONE.
_BARE_IP = frozenset({512, 519, 768, 769, 776, 778, 823, 65534})

_TUNNELS = frozenset(
    "vxlan geneve bareudp gretap ip6gretap erspan ip6erspan wireguard ipip ip6tnl sit gre ip6gre"
    " vti vti6 xfrm".split()
)
_NEVER = frozenset("dummy ifb nlmon vrf vcan vxcan".split())
_WIRES = frozenset(("", "bond", "team", "vlan", "macsec", "hsr"))
_PAIRS = frozenset(("veth", "netkit"))


class Role(Enum):
    """What a device is for the packet path."""

    UPLINK = "uplink"
    """Leads to other machines: ingress, egress, and XDP where it is asked for."""
    OVERLAY = "overlay"
    """Leads to other nodes inside other packets: ingress and egress."""
    POD = "pod"
    """The host's end of a pod's device: ingress and egress."""
    LOOPBACK = "loopback"
    """Where the host's packets to itself arrive: ingress."""
    NONE = "none"
    """No program: another device sees its packets, or they are none of ours."""


class Attachment(NamedTuple):
    """What is to be done with one device."""

    device: Device
    role: Role
    pod_local: bool
    """The local detector counts what arrives by it as pods of this node."""

    @property
    def ethernet(self) -> bool:
        return self.device.link_type in (_ETHERNET, _LOOPBACK)


class LocalDevices(NamedTuple):
    """The local detector by interface: detectLocalMode BridgeInterface or InterfaceNamePrefix."""

    bridge: str = ""
    prefix: str = ""

    def knows(self, device: Device, by_index: Mapping[int, Device]) -> bool:
        """As iptables' ``-i``, which sees the bridge where a packet arrives at its port."""
        master = by_index.get(device.master)
        name = master.name if master is not None and master.kind == "bridge" else device.name
        return bool(self.bridge and name == self.bridge) or bool(
            self.prefix and name.startswith(self.prefix)
        )


def attachments(
    devices: Iterable[Device],
    uplinks: Sequence[str] = (),
    local: LocalDevices = LocalDevices(),
) -> list[Attachment]:
    """Judge every device; ``uplinks`` are names or globs that take the place of the search."""
    by_index = {device.ifindex: device for device in devices}
    return [
        Attachment(device, _role(device, by_index, uplinks), local.knows(device, by_index))
        for device in by_index.values()
    ]


def source_address(device: Device, ipv4: bool) -> bytes:
    """The address that packets leaving by the device are masqueraded with; zero: none.

    The kernel's first; one with a subnet before one that stands alone, which may be a VIP.
    """
    found = [
        a
        for a in device.addresses
        if a.usable and _routable(a.address) and is_ipv4(a.address) == ipv4
    ]
    found.sort(key=lambda a: a.prefix_bits == 128)
    return found[0].address if found else bytes(16)


def _role(device: Device, by_index: Mapping[int, Device], uplinks: Sequence[str]) -> Role:
    if device.link_type == _LOOPBACK:
        return Role.LOOPBACK
    if device.link_type != _ETHERNET and device.link_type not in _BARE_IP:
        return Role.NONE
    if any(fnmatchcase(device.name, pattern) for pattern in uplinks):
        return Role.UPLINK
    role = _found(device, by_index)
    return Role.NONE if uplinks and role == Role.UPLINK else role


def _found(device: Device, by_index: Mapping[int, Device]) -> Role:
    """By kind, in this order:

    1. kinds that carry nobody's traffic; 2. bridges; 3. ends of pairs, and what virtual machines
    hang on; 4. ports: their bridge or bond has the programs; 5. tunnels; 6. wires; 7. anything
    else by its addresses.
    """
    if device.kind in _NEVER:
        return Role.NONE
    if device.kind == "bridge":
        return _bridge(device, by_index)
    if device.kind in _PAIRS or _is_tap(device):
        return _pair(device, by_index)
    if _is_port(device, by_index):
        return Role.NONE
    if device.kind in _TUNNELS or device.kind == "tun":
        # The kernel makes tunnels of its own with each module; nobody ever uses most of them.
        return Role.OVERLAY if device.up else Role.NONE
    return Role.UPLINK if device.kind in _WIRES or _has_subnet(device) else Role.NONE


def _bridge(device: Device, by_index: Mapping[int, Device]) -> Role:
    """A bridge is an uplink if it has the node's address and a port that leads out of the node."""
    ports = (port for port in by_index.values() if port.master == device.ifindex)
    leads_out = any(_pair(p, by_index) != Role.POD if _is_end(p) else True for p in ports)
    return Role.UPLINK if leads_out and _has_subnet(device) else Role.NONE


def _pair(device: Device, by_index: Mapping[int, Device]) -> Role:
    """One end of a pair: an address on a subnet makes it an uplink (a node in a container)."""
    port = _is_port(device, by_index)
    if not port and _has_subnet(device):
        return Role.UPLINK
    return Role.POD if device.peer_elsewhere or _is_tap(device) else Role.NONE


def _is_end(device: Device) -> bool:
    return device.kind in _PAIRS or _is_tap(device)


def _is_tap(device: Device) -> bool:
    return device.kind == "tun" and device.link_type == _ETHERNET


def _is_port(device: Device, by_index: Mapping[int, Device]) -> bool:
    """Whether a master takes the packets of the device; that of a VRF only routes them."""
    master = by_index.get(device.master)
    return device.master != 0 and (master is None or master.kind != "vrf")


def _has_subnet(device: Device) -> bool:
    """An address alone, without a subnet, is a gateway shown to a pod, not a place in a network."""
    return any(a.usable and _routable(a.address) and a.prefix_bits < 128 for a in device.addresses)


def _routable(address: bytes) -> bool:
    """Neither loopback nor link-local."""
    if is_ipv4(address):
        return address[12] != 127 and address[12:14] != b"\xa9\xfe"
    return address != bytes(15) + b"\1" and not (address[0] == 0xFE and address[1] & 0xC0 == 0x80)
