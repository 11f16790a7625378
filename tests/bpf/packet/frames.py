# SPDX-License-Identifier: Apache-2.0
"""Packets, built by scapy: what a client sends and what must come out, checksums included.

scapy shares nothing with the programs, so the expected bytes are computed a second way. Only the
tests of packets import it: the import is slow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from scapy.compat import raw
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

__all__ = ["Ends", "Ether", "IP", "IPv6", "TCP", "UDP", "Packet", "Raw", "frame", "raw"]

CLIENT_MAC = "02:00:00:00:00:99"
TTL = 64
PAYLOAD = b"seven b"


class Ends(NamedTuple):
    """From whom to whom."""

    source: str
    source_port: int
    destination: str
    destination_port: int

    def reply(self) -> Ends:
        return Ends(self.destination, self.destination_port, self.source, self.source_port)

    def to(self, destination: str, port: int) -> Ends:
        return self._replace(destination=destination, destination_port=port)

    def by(self, source: str, port: int) -> Ends:
        return self._replace(source=source, source_port=port)


def transport(protocol: str, ends: Ends, payload: bytes = PAYLOAD, **fields: Any) -> Packet:
    """The header behind that of IP, and the payload."""
    ports = {"sport": ends.source_port, "dport": ends.destination_port}
    if protocol == "TCP":
        header = TCP(**({"flags": "S", "seq": 1000, "window": 4096} | ports | fields))
    elif protocol == "UDP":
        header = UDP(**ports, **fields)
    else:
        header = SCTP(**ports, **fields)
    return header / Raw(payload) if payload else header


def network(ends: Ends, ttl: int = TTL, **fields: Any) -> Packet:
    """The header of IP."""
    if ":" in ends.source:
        return IPv6(src=ends.source, dst=ends.destination, hlim=ttl, **fields)
    return IP(**({"src": ends.source, "dst": ends.destination, "ttl": ttl, "id": 7} | fields))


def packet(protocol: str, ends: Ends, ttl: int = TTL, **fields: Any) -> Packet:
    """An IP packet."""
    return network(ends, ttl) / transport(protocol, ends, **fields)


def frame(content: Packet, device_mac: str, vlan: int = 0) -> bytes:
    """The bytes of a frame as it comes to, or from, a device with this address."""
    kind = 0x86DD if content.name == "IPv6" else 0x0800
    ether = Ether(src=CLIENT_MAC, dst=device_mac, **({} if vlan else {"type": kind}))
    return bytes(raw(ether / Dot1Q(vlan=vlan, type=kind) / content if vlan else ether / content))


def read(data: bytes) -> Packet:
    """The IP packet of a frame."""
    ether = Ether(data)
    return ether[IP] if IP in ether else ether[IPv6]


def ends_of(ip: Packet) -> Ends:
    """From whom to whom a packet goes, by its own headers."""
    header = next(ip[layer] for layer in (TCP, UDP, SCTP) if layer in ip)
    return Ends(ip.src, header.sport, ip.dst, header.dport)


def difference(data: bytes, expected: Packet, header: int = 14) -> str:
    """What is wrong with the IP packet of a frame; nothing if it is as expected, byte for byte."""
    wanted = bytes(raw(expected))
    if data[header:] == wanted:
        return ""
    seen = (Ether(data).payload if header else type(expected)(data)).show(dump=True)
    return f"{seen}{data[header:].hex()}\n{wanted.hex()} is expected:\n{expected.show2(dump=True)}"
