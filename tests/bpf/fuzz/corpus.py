# SPDX-License-Identifier: Apache-2.0
"""The packets that the run begins with: every kind, from and to every kind of place.

All are right in themselves, though many of them no host would send: sources that are loopback,
multicast, the node's own or the destination itself.
"""

from __future__ import annotations

import struct
from typing import Iterator, NamedTuple

from tests.bpf.packet.node import (
    FAR_POD,
    LOCAL_POD,
    LOCAL_POD_2,
    LOCAL_POD_L3,
    NARROW_POD,
    NODE,
    NODE_SECOND,
    OUTSIDE,
    OUTSIDE_L3,
    REMOTE_POD,
)

from . import craft
from .craft import (
    ACK,
    FIN,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    OPTIONS,
    PSH,
    ROUTING,
    RST,
    SCTP,
    SYN,
    TCP,
    UDP,
    Ends,
    Ip,
    packed,
    packet,
)

BACKEND_PORT, SERVED, EMPTY, HOSTED, CLIENT_PORT = 8080, 30080, 30081, 9999, 40000
VIPS = ("10.96.0.1", "fd00:10:96::1")
BALANCERS = ("198.51.100.9", "2001:db8::9")
EXTERNALS = ("198.51.100.10", "2001:db8::10")
UNUSED = ("10.96.0.99", "fd00:10:96::99")
LOOPBACK = ("127.0.0.1", "::1")
NOBODY = ("0.0.0.0", "::")
EVERYBODY = ("224.0.0.1", "ff02::1")
BROADCAST = ("255.255.255.255", "ff0e::1")
LINK_LOCAL = ("169.254.7.7", "fe80::7")
ELSEWHERE = ("192.0.2.77", "2001:db8:77::77")

OURS = (NODE, NODE_SECOND, VIPS, BALANCERS, EXTERNALS, UNUSED)
SOURCES = (OUTSIDE, OUTSIDE_L3, LOCAL_POD, LOCAL_POD_2, REMOTE_POD, NODE, LOOPBACK, NOBODY)
ODD_SOURCES = (EVERYBODY, BROADCAST, LINK_LOCAL, VIPS)
_TCP_FLAGS = (0, ACK, PSH | ACK, FIN | ACK, RST, RST | ACK, SYN | ACK, SYN | FIN, 0xFF)
_TCP_OPTIONS = struct.pack("!BBHBBBBII", 2, 4, 1460, 1, 1, 8, 10, 7, 0) + bytes([1] * 4)
_NOPS = bytes([1] * 8)
_ROUTE = bytes([131, 7, 4, 8, 8, 8, 8, 0])  # loose source routing
_SIX = bytes([0, 1, 4, 0, 0, 0, 0])  # the least extension: padding


class Target(NamedTuple):
    address: tuple[str, str]
    port: int


TARGETS = (
    Target(NODE, SERVED),
    Target(NODE, EMPTY),
    Target(NODE, HOSTED),
    Target(NODE, 22),
    Target(NODE, 20010),
    Target(NODE_SECOND, SERVED),
    Target(VIPS, 80),
    Target(VIPS, 81),
    Target(BALANCERS, 80),
    Target(EXTERNALS, 80),
    Target(UNUSED, 80),
    Target(LOCAL_POD, BACKEND_PORT),
    Target(LOCAL_POD_2, BACKEND_PORT),
    Target(LOCAL_POD_L3, 80),
    Target(REMOTE_POD, BACKEND_PORT),
    Target(FAR_POD, BACKEND_PORT),
    Target(NARROW_POD, BACKEND_PORT),
    Target(OUTSIDE, CLIENT_PORT),
    Target(ELSEWHERE, 80),
    Target(LOOPBACK, SERVED),
    Target(NOBODY, SERVED),
    Target(EVERYBODY, SERVED),
    Target(BROADCAST, SERVED),
    Target(LINK_LOCAL, SERVED),
)


def addresses_of_ours() -> frozenset[bytes]:
    """Those that the programs know: node, VIPs and what belongs to a ServiceCIDR; packed."""
    return frozenset(packed(address) for pair in OURS for address in pair)


def corpus() -> list[bytes]:
    """IP packets."""
    found: list[bytes] = []
    for family in (0, 1):
        for target in TARGETS:
            to = packed(target.address[family]), target.port
            for source in SOURCES:
                found += kinds(Ends(packed(source[family]), CLIENT_PORT, *to))
                found += kinds(Ends(packed(source[family]), target.port, to[0], CLIENT_PORT))
            for source in (*ODD_SOURCES, target.address):
                found += openers(Ends(packed(source[family]), target.port, *to))
    return found


def openers(ends: Ends) -> Iterator[bytes]:
    """One packet of each protocol that opens a flow."""
    for protocol in (TCP, UDP, SCTP):
        yield packet(ends, protocol, craft.segment(protocol, ends))


def kinds(ends: Ends) -> Iterator[bytes]:
    """Packets of all kinds from one end to the other."""
    yield from openers(ends)
    for flags in _TCP_FLAGS:
        yield packet(ends, TCP, craft.tcp(ends, flags, b"data"))
    yield packet(ends, TCP, craft.tcp(ends, SYN, options=_TCP_OPTIONS))
    yield packet(ends, UDP, craft.udp(ends), Ip(hops=1))
    yield packet(ends, UDP, craft.udp(ends, unchecked=True))
    yield packet(ends, UDP, craft.udp(ends, bytes(1400)))
    yield packet(ends, UDP, craft.udp(ends, bytes(2000)))
    yield packet(ends, 50, bytes(24))
    yield from errors(ends.reply())
    yield from _of_ipv4(ends) if len(ends.source) == 4 else _of_ipv6(ends)


def _of_ipv4(ends: Ends) -> Iterator[bytes]:
    whole = craft.udp(ends, bytes(64))
    yield packet(ends, UDP, whole[:32], Ip(fragment=0x2000))
    yield packet(ends, UDP, whole[32:], Ip(fragment=4))
    yield packet(ends, UDP, whole[8:40], Ip(fragment=0x2001))  # overlaps the first
    yield packet(ends, TCP, craft.tcp(ends)[:8], Ip(fragment=0x2000))  # ends before the flags
    yield packet(ends, UDP, craft.udp(ends, bytes(2000)), Ip(fragment=0x4000))
    yield packet(ends, TCP, craft.tcp(ends), Ip(options=_NOPS))
    yield packet(ends, UDP, craft.udp(ends), Ip(options=_ROUTE * 5))
    yield packet(ends, ICMP, craft.icmp(ends, 8, 0, 1, b"ping"))
    yield packet(ends, 4, packet(ends, UDP, craft.udp(ends)))


def _of_ipv6(ends: Ends) -> Iterator[bytes]:
    whole = craft.udp(ends, bytes(64))
    first, later = (struct.pack("!BHI", 0, bits, 5) for bits in (1, 32))
    yield packet(ends, UDP, whole[:32], Ip(extensions=[(FRAGMENT, first)]))
    yield packet(ends, UDP, whole[32:], Ip(extensions=[(FRAGMENT, later)]))
    atomic = struct.pack("!BHI", 0, 0, 5)
    yield packet(ends, UDP, craft.udp(ends), Ip(extensions=[(FRAGMENT, atomic)]))
    for chain in ((HOP_BY_HOP,), (HOP_BY_HOP, OPTIONS, ROUTING), (OPTIONS,) * 6, (OPTIONS,) * 7):
        extensions = [(kind, _SIX) for kind in chain]
        yield packet(ends, TCP, craft.tcp(ends), Ip(extensions=extensions))
    yield packet(ends, ICMPV6, craft.icmp(ends, 128, 0, 1, b"ping"))
    yield packet(ends, 41, packet(ends, UDP, craft.udp(ends)))


def errors(about: Ends) -> Iterator[bytes]:
    """ICMP errors that quote packets with these ends: by the receiver, and by a router."""
    ipv4 = len(about.source) == 4
    protocol, sorts = (ICMP, ((3, 3), (3, 4), (11, 0))) if ipv4 else (ICMPV6, ((1, 4), (2, 0)))
    router = packed(ELSEWHERE[not ipv4])
    for kind, code in sorts:
        for quoted in (TCP, UDP, SCTP):
            quote = packet(about, quoted, craft.segment(quoted, about))
            for source in (about.destination, router):
                ends = Ends(source, 0, about.source, 0)
                yield packet(ends, protocol, craft.icmp(ends, kind, code, 1300, quote))
    quote = packet(about, UDP, craft.udp(about))[: 48 if ipv4 else 68][: 20 + 20 * (not ipv4) + 8]
    ends = Ends(about.destination, 0, about.source, 0)
    yield packet(ends, protocol, craft.icmp(ends, sorts[0][0], 0, 0, quote))
