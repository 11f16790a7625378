# SPDX-License-Identifier: Apache-2.0
"""The packets of the tests, built by scapy, which shares nothing with the programs."""

from __future__ import annotations

from scapy.compat import raw
from scapy.layers.inet import IP, IPOption_NOP, IPOption_Timestamp
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from .conftest import VIPS
from .places import MAC, PEER_MAC, Wire

CLIENTS = ("203.0.113.50", "2001:db8:86dd::50")
HOPS = 64


def header(family: int, source: tuple[str, str] = CLIENTS) -> Packet:
    """The IP header of what a client sends to a VIP."""
    if family == 4:
        return IP(src=source[0], dst=VIPS[0], ttl=57, id=7, tos=8)
    return IPv6(src=source[1], dst=VIPS[1], hlim=57, tc=8, fl=99)


def options(family: int) -> Packet:
    """The same, with options or extension headers."""
    if family == 4:
        ip = header(4)
        ip.options = [IPOption_Timestamp(), IPOption_NOP()]
        return ip
    return header(6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()


def refused(family: int) -> Packet:
    """The IP header of the answer."""
    if family == 4:
        return IP(src=VIPS[0], dst=CLIENTS[0], ttl=HOPS, id=0, flags="DF")
    return IPv6(src=VIPS[1], dst=CLIENTS[1], hlim=HOPS)


def framed(wire: Wire, packet: Packet, reply: bool = False) -> bytes:
    """The bytes on the wire, towards the node or from it."""
    if not wire.ethernet:
        return bytes(raw(packet))
    source, destination = (MAC, PEER_MAC) if reply else (PEER_MAC, MAC)
    kind = 0x86DD if IPv6 in packet else 0x0800
    return bytes(raw(Ether(src=source, dst=destination, type=kind) / packet))
