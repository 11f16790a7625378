# SPDX-License-Identifier: Apache-2.0
"""Reads frames and judges their checksums: small and quick, for tens of thousands of packets.

Knows what the property tests need, plain packets with ports, and says of all others that it knows
nothing. Shares nothing with the programs, and not its arithmetic with scapy either.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

TCP, UDP, SCTP = 6, 17, 132
_CHECK = {TCP: 16, UDP: 6}
_HEADER = {TCP: 20, UDP: 8, SCTP: 12}
_MAPPED = bytes(10) + b"\xff\xff"


class Plain(NamedTuple):
    """A whole packet of TCP, UDP or SCTP behind an IP header without extensions."""

    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    protocol: int
    header: bytes
    """Of IP; empty for IPv6, which has no checksum."""
    pseudo: bytes
    segment: bytes
    rest: bytes
    """What follows the packet in its frame."""

    @property
    def header_is_right(self) -> bool:
        return not self.header or _sum(self.header) == 0xFFFF

    @property
    def segment_is_right(self) -> bool:
        """SCTP's checksum covers no address and no port is changed: never judged."""
        if self.protocol == SCTP or self.unchecked:
            return True
        return _sum(self.pseudo + self.segment) == 0xFFFF

    @property
    def unchecked(self) -> bool:
        return self.protocol == UDP and self.segment[6:8] == b"\0\0"

    @property
    def content(self) -> bytes:
        """All that no rewrite may change."""
        at = _CHECK.get(self.protocol)
        if at is None:
            return self.segment + self.rest
        return self.segment[4:at] + self.segment[at + 2 :] + self.rest


def plain(frame: bytes) -> Plain | None:
    """Read a frame; None if it is of another kind."""
    kind = frame[12:14]
    if kind == b"\x08\x00":
        return _ipv4(frame[14:])
    return _ipv6(frame[14:]) if kind == b"\x86\xdd" else None


def _ipv4(ip: bytes) -> Plain | None:
    if len(ip) < 20 or ip[0] >> 4 != 4:
        return None
    header, length = (ip[0] & 15) * 4, int.from_bytes(ip[2:4], "big")
    fragment = int.from_bytes(ip[6:8], "big") & 0x3FFF
    if header < 20 or length < header or length > len(ip) or fragment:
        return None
    segment, protocol = ip[header:length], ip[9]
    pseudo = ip[12:20] + struct.pack("!HH", protocol, len(segment))
    ends = (_MAPPED + ip[12:16], _MAPPED + ip[16:20])
    return _with_ports(ends, protocol, ip[:header], pseudo, segment, ip[length:])


def _ipv6(ip: bytes) -> Plain | None:
    if len(ip) < 40 or ip[0] >> 4 != 6:
        return None
    length, protocol = int.from_bytes(ip[4:6], "big") + 40, ip[6]
    if length > len(ip):
        return None
    segment = ip[40:length]
    pseudo = ip[8:40] + struct.pack("!II", len(segment), protocol)
    return _with_ports((ip[8:24], ip[24:40]), protocol, b"", pseudo, segment, ip[length:])


def _with_ports(
    ends: tuple[bytes, bytes],
    protocol: int,
    header: bytes,
    pseudo: bytes,
    segment: bytes,
    rest: bytes,
) -> Plain | None:
    if len(segment) < _HEADER.get(protocol, 1 << 16):
        return None
    ports = struct.unpack("!HH", segment[:4])
    return Plain(*ends, *ports, protocol, header, pseudo, segment, rest)


def _sum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
