# SPDX-License-Identifier: Apache-2.0
"""Packets as bytes, with sums of their own: thousands of different ones in a blink.

What is crafted is right in every field unless a caller says otherwise; ``mutation`` does the rest.
Shares no arithmetic with the programs. Addresses are packed: 4 bytes or 16.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import NamedTuple, Sequence

TCP, UDP, SCTP = 6, 17, 132
ICMP, ICMPV6 = 1, 58
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
HOP_BY_HOP, ROUTING, FRAGMENT, AUTH, OPTIONS = 0, 43, 44, 51, 60
ETHERNET_BYTES = 14
CLIENT_MAC = bytes.fromhex("020000000099")


class Ends(NamedTuple):
    """From whom to whom."""

    source: bytes
    source_port: int
    destination: bytes
    destination_port: int

    def reply(self) -> Ends:
        return Ends(self.destination, self.destination_port, self.source, self.source_port)


def packed(address: str) -> bytes:
    return ip_address(address).packed


def checksum(data: bytes) -> int:
    """RFC 1071: what makes the sum of all 16-bit words 0xffff."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def _pseudo(ends: Ends, protocol: int, length: int) -> bytes:
    if len(ends.source) == 4:
        return ends.source + ends.destination + struct.pack("!HH", protocol, length)
    return ends.source + ends.destination + struct.pack("!II", length, protocol)


def _sealed(ends: Ends, protocol: int, segment: bytes, at: int) -> bytes:
    check = checksum(_pseudo(ends, protocol, len(segment)) + segment)
    if protocol == UDP:
        check = check or 0xFFFF
    return segment[:at] + struct.pack("!H", check) + segment[at + 2 :]


# ---- behind the IP header ----


def tcp(ends: Ends, flags: int = SYN, payload: bytes = b"", options: bytes = b"") -> bytes:
    """``options`` in whole words."""
    offset = (20 + len(options)) // 4 << 4
    ports = ends.source_port, ends.destination_port
    header = struct.pack("!HHIIBBHHH", *ports, 1000, 2000, offset, flags, 4096, 0, 0)
    return _sealed(ends, TCP, header + options + payload, 16)


def udp(ends: Ends, payload: bytes = b"seven b", unchecked: bool = False) -> bytes:
    length = 8 + len(payload)
    segment = struct.pack("!4H", ends.source_port, ends.destination_port, length, 0) + payload
    return segment if unchecked else _sealed(ends, UDP, segment, 6)


def sctp(ends: Ends, payload: bytes = bytes(16)) -> bytes:
    """An INIT chunk's worth of bytes; nobody looks at the CRC."""
    return struct.pack("!HHII", ends.source_port, ends.destination_port, 1, 2) + payload


def icmp(ends: Ends, kind: int, code: int, rest: int, payload: bytes) -> bytes:
    """ICMP or ICMPv6, by the family of the ends."""
    message = struct.pack("!BBHI", kind, code, 0, rest) + payload
    covered = message
    if len(ends.source) == 16:
        covered = _pseudo(ends, ICMPV6, len(message)) + message
    return message[:2] + struct.pack("!H", checksum(covered)) + message[4:]


def segment(protocol: int, ends: Ends) -> bytes:
    """The least that opens a flow."""
    return {TCP: tcp, UDP: udp, SCTP: sctp}[protocol](ends)


# ---- with the IP header ----


class Ip(NamedTuple):
    """What else stands in the header."""

    hops: int = 64
    fragment: int = 0
    """Of IPv4: flags and offset as they are on the wire."""
    options: bytes = b""
    """Of IPv4, in whole words."""
    extensions: Sequence[tuple[int, bytes]] = ()
    """Of IPv6: kind, and all bytes but the first, which leads on."""


PLAIN = Ip()


def packet(ends: Ends, protocol: int, payload: bytes, ip: Ip = PLAIN) -> bytes:
    """An IP packet of the family of its ends."""
    if len(ends.source) == 4:
        return _ipv4(ends, protocol, payload, ip)
    return _ipv6(ends, protocol, payload, ip)


def _ipv4(ends: Ends, protocol: int, payload: bytes, ip: Ip) -> bytes:
    words = 5 + len(ip.options) // 4
    length = words * 4 + len(payload)
    fields = (0x40 | words, 0, length, 7, ip.fragment, ip.hops, protocol, 0)
    header = struct.pack("!BBHHHBBH", *fields) + ends.source + ends.destination + ip.options
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def _ipv6(ends: Ends, protocol: int, payload: bytes, ip: Ip) -> bytes:
    following = protocol
    for kind, extension in reversed(ip.extensions):
        payload = bytes([following]) + extension + payload
        following = kind
    head = struct.pack("!IHBB", 6 << 28, len(payload), following, ip.hops)
    return head + ends.source + ends.destination + payload


def frame(content: bytes, to_mac: str, from_mac: bytes = CLIENT_MAC) -> bytes:
    """The IP packet with an Ethernet header."""
    kind = b"\x08\x00" if content[0] >> 4 == 4 else b"\x86\xdd"
    return bytes.fromhex(to_mac.replace(":", "")) + from_mac + kind + content
