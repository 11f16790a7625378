# SPDX-License-Identifier: Apache-2.0
"""What a packet says, read a second way: ends, what a rewrite may touch, and which sums are right.

Knows nothing of the programs. Reads further than they do: a header that they leave alone is read
here as well.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from .craft import (
    AUTH,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    OPTIONS,
    ROUTING,
    SCTP,
    TCP,
    UDP,
    checksum,
)

_EXTENSIONS = (HOP_BY_HOP, ROUTING, FRAGMENT, AUTH, OPTIONS)
_MAPPED = bytes(10) + b"\xff\xff"
_LEAST = {TCP: 20, UDP: 8, SCTP: 12}
_CHECK = {TCP: 16, UDP: 6}
_ERRORS = {ICMP: (3, 11, 12), ICMPV6: (1, 2, 3, 4)}


class Reading(NamedTuple):
    """An IP packet; offsets count from the start of the data."""

    source: bytes
    """16 bytes, v4-mapped."""
    destination: bytes
    protocol: int
    payload: int
    """Where what ``protocol`` names begins."""
    end: int
    fragment: bool
    """One part of several."""
    later: bool
    """A fragment that is not the first."""
    header_is_right: bool
    ports: tuple[int, int] | None = None
    payload_is_right: bool | None = None
    """None: nobody can tell."""
    quoted: Quoted | None = None

    @property
    def is_ipv4(self) -> bool:
        return self.source.startswith(_MAPPED)


class Quoted(NamedTuple):
    """The packet inside an ICMP error, as far as it goes."""

    source: bytes
    destination: bytes
    protocol: int
    ports: tuple[int, int]
    at: int
    payload: int
    header_is_right: bool


def read(data: bytes, at: int) -> Reading | None:
    """Read the packet whose IP header stands ``at``; None if there is none."""
    layer = _network(data, at, whole=True)
    if layer is None:
        return None
    ports = _ports(data, layer, _LEAST)
    quoted = None
    if layer.protocol in _ERRORS and not layer.fragment:
        quoted = _quoted(data, layer)
    right = _payload_is_right(data, at, layer)
    return layer._replace(ports=ports, payload_is_right=right, quoted=quoted)


def link_end(data: bytes, header: int) -> int | None:
    """Where the IP header of a frame stands; None if it is another kind of frame."""
    if not header:
        return 0
    return header if data[12:14] in (b"\x08\x00", b"\x86\xdd") else None


def _network(data: bytes, at: int, whole: bool) -> Reading | None:
    """An IP header with all that belongs to it."""
    if len(data) <= at:
        return None
    version = data[at] >> 4
    if version == 4:
        return _ipv4(data, at, whole)
    return _ipv6(data, at, whole) if version == 6 else None


def _ipv4(data: bytes, at: int, whole: bool) -> Reading | None:
    if len(data) < at + 20:
        return None
    words, length = data[at] & 15, int.from_bytes(data[at + 2 : at + 4], "big")
    bits = int.from_bytes(data[at + 6 : at + 8], "big")
    payload = at + words * 4
    if words < 5 or payload > len(data):
        return None
    end = at + length if whole else len(data)
    if not payload <= end <= len(data):
        return None
    ends = _MAPPED + data[at + 12 : at + 16], _MAPPED + data[at + 16 : at + 20]
    right = checksum(data[at:payload]) == 0
    return Reading(
        *ends, data[at + 9], payload, end, bool(bits & 0x3FFF), bool(bits & 0x1FFF), right
    )


def _ipv6(data: bytes, at: int, whole: bool) -> Reading | None:
    if len(data) < at + 40:
        return None
    end = at + 40 + int.from_bytes(data[at + 4 : at + 6], "big") if whole else len(data)
    if end > len(data):
        return None
    ends = data[at + 8 : at + 24], data[at + 24 : at + 40]
    protocol, payload, fragment, later = data[at + 6], at + 40, False, False
    while protocol in _EXTENSIONS and not later:
        if payload + 8 > len(data):
            return None
        kind, protocol, length = protocol, data[payload], (data[payload + 1] + 1) * 8
        if kind == FRAGMENT:
            bits, length = int.from_bytes(data[payload + 2 : payload + 4], "big"), 8
            fragment, later = fragment or bool(bits & 0xFFF9), bool(bits & 0xFFF8)
        elif kind == AUTH:
            length = (data[payload + 1] + 2) * 4
        payload += length
    return Reading(*ends, protocol, payload, end, fragment, later, True)


def _ports(data: bytes, layer: Reading, least: dict[int, int]) -> tuple[int, int] | None:
    need = least.get(layer.protocol)
    if need is None or layer.later or layer.payload + need > layer.end:
        return None
    source, destination = struct.unpack_from("!HH", data, layer.payload)
    return source, destination


def _quoted(data: bytes, layer: Reading) -> Quoted | None:
    at = layer.payload + 8
    if at > layer.end or data[layer.payload] not in _ERRORS[layer.protocol]:
        return None
    inner = _network(data, at, whole=False)
    if inner is None or inner.later:
        return None
    ports = _ports(data, inner, dict.fromkeys(_LEAST, 8))
    if ports is None:
        return None
    return Quoted(*inner[:3], ports, at, inner.payload, inner.header_is_right)


def _payload_is_right(data: bytes, at: int, layer: Reading) -> bool | None:
    """The sum of what is behind the IP header."""
    if layer.fragment:
        return None
    covered = data[layer.payload : layer.end]
    if layer.protocol in (ICMP, ICMPV6):
        if len(covered) < 8:
            return None
        if layer.protocol == ICMP:
            return checksum(covered) == 0
    elif layer.protocol not in _CHECK or len(covered) < _LEAST[layer.protocol]:
        return None
    elif layer.protocol == UDP and covered[6:8] == b"\0\0":
        return None
    if data[at] >> 4 == 4:
        ends, tail = data[at + 12 : at + 20], (layer.protocol, len(covered))
        return checksum(ends + struct.pack("!HH", *tail) + covered) == 0
    ends = data[at + 8 : at + 40]
    return checksum(ends + struct.pack("!II", len(covered), layer.protocol) + covered) == 0


def without_what_a_rewrite_may_change(data: bytes, at: int, reading: Reading) -> bytes:
    """The packet with addresses, ports, hops and checksums blanked out, from the IP header on."""
    blank = bytearray(data)
    _blank_header(blank, at, reading.is_ipv4)
    if reading.quoted is not None:
        blank[reading.payload + 2 : reading.payload + 4] = bytes(2)
        _blank_header(blank, reading.quoted.at, reading.is_ipv4, hops=False)
        _blank_transport(blank, reading.quoted.payload, reading.quoted.protocol)
    elif not reading.later:
        _blank_transport(blank, reading.payload, reading.protocol)
    return bytes(blank[at:])


def _blank_header(blank: bytearray, at: int, ipv4: bool, hops: bool = True) -> None:
    if hops:
        blank[at + (8 if ipv4 else 7)] = 0
    if ipv4:
        blank[at + 10 : at + 20] = bytes(10)
    else:
        blank[at + 8 : at + 40] = bytes(32)


def _blank_transport(blank: bytearray, at: int, protocol: int) -> None:
    blank[at : at + 4] = bytes(len(blank[at : at + 4]))
    check = _CHECK.get(protocol)
    if check is not None:
        place = slice(at + check, at + check + 2)
        blank[place] = bytes(len(blank[place]))
