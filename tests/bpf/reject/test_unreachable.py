# SPDX-License-Identifier: Apache-2.0
"""ICMP errors in place of a packet, byte by byte."""

from __future__ import annotations

import pytest
from scapy.compat import raw
from scapy.layers.inet import ICMP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6ExtHdrFragment
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Packet, Raw

from .conftest import Answers
from .packets import framed, header, options, refused
from .places import Offload, Wire

pytestmark = [
    pytest.mark.root,
    pytest.mark.parametrize("family", [4, 6]),
]

QUOTE = 64
PORTS = {"sport": 40000, "dport": 53}


def unreachable(family: int, quote: bytes) -> Packet:
    """The answer to a packet for a port that nobody serves."""
    if family == 4:
        return refused(4) / ICMP(type=3, code=3) / Raw(quote)
    return refused(6) / ICMPv6DestUnreach(code=4) / Raw(quote)


def too_big(family: int, mtu: int, quote: bytes) -> Packet:
    """The answer to a packet that does not fit."""
    if family == 4:
        return refused(4) / ICMP(type=3, code=4, nexthopmtu=mtu) / Raw(quote)
    return refused(6) / ICMPv6PacketTooBig(mtu=mtu) / Raw(quote)


def quoted(packet: Packet, ip_header: Packet) -> bytes:
    """As much of a packet as an answer carries."""
    return bytes(raw(packet))[: len(raw(ip_header)) + QUOTE]


@pytest.mark.parametrize("size", [0, 1, 5, 55, 56, 57, 1400])
def test_a_datagram_is_answered_with_what_it_began_with(wire: Wire, family: int, size: int) -> None:
    """Short ones come back whole, of long ones the first bytes, checksum included."""
    packet = header(family) / UDP(**PORTS) / Raw((bytes(range(256)) * 6)[:size])

    wire.send(framed(wire, packet))

    expected = unreachable(family, quoted(packet, header(family)))
    assert framed(wire, expected, reply=True) == wire.receive()[0]


def test_options_of_ip_are_quoted(wire: Wire, family: int) -> None:
    """The quote is what the client sent, its answer has a plain IP header."""
    packet = options(family) / UDP(**PORTS) / Raw(b"abc")

    wire.send(framed(wire, packet))

    expected = unreachable(family, bytes(raw(packet)))
    assert framed(wire, expected, reply=True) == wire.receive()[0]


def test_sctp_is_answered_by_icmp(wire: Wire, family: int) -> None:
    """The quote reaches to the tag by which the client knows its own association."""
    packet = header(family) / SCTP(**PORTS, tag=0) / SCTPChunkInit(init_tag=0x12345678)

    wire.send(framed(wire, packet))

    expected = unreachable(family, quoted(packet, header(family)))
    assert framed(wire, expected, reply=True) == wire.receive()[0]


def test_a_first_fragment_is_answered_and_no_later_one(wire: Wire, family: int) -> None:
    """One error for a datagram [RFC 1122, 3.2.2]; parts without ports could not be told apart."""
    first, later = header(family), header(family)
    if family == 4:
        first.flags, later.frag, later.proto = "MF", 3, 17
    else:
        first = first / IPv6ExtHdrFragment(id=9, m=1, offset=0)
        later = later / IPv6ExtHdrFragment(id=9, m=0, offset=3, nh=17)
    begun = first / UDP(**PORTS, len=100, chksum=0x1234) / Raw(bytes(16))

    wire.send(framed(wire, begun))
    wire.send(framed(wire, later / Raw(bytes(24))))

    assert framed(wire, unreachable(family, bytes(raw(begun))), reply=True) == wire.receive()[0]
    assert not wire.waiting()


@pytest.mark.parametrize("wire", ["ethernet"], indirect=True)
@pytest.mark.parametrize("many", ["ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"])
def test_a_frame_to_many_is_not_answered(wire: Wire, family: int, many: str) -> None:
    """If many hosts get a frame, none of them answers with an error."""
    frame = framed(wire, header(family) / UDP(**PORTS))

    wire.send(bytes.fromhex(many.replace(":", "")) + frame[6:])

    assert not wire.waiting()


@pytest.mark.parametrize("completes", [False, True], ids=["device", "kernel"])
def test_an_error_is_right_whether_or_not_the_quote_is_completed(
    wire: Wire, family: int, completes: bool
) -> None:
    """A checksum that was left to the device is in the quote now, and some devices complete it."""
    packet = header(family) / UDP(**PORTS, chksum=0xBEEF) / Raw(b"abc")
    wire.leave_checksums(not completes)

    wire.send(framed(wire, packet), Offload(wire.l3 + len(header(family)), 6))
    data, left = wire.receive()

    wire.leave_checksums(False)
    assert (left is None) == completes
    at = wire.l3 + len(header(family)) * 2 + 8 + 6
    quote = bytearray(raw(packet))
    quote[len(header(family)) + 6 : len(header(family)) + 8] = data[at : at + 2]
    assert framed(wire, unreachable(family, bytes(quote)), reply=True) == data


@pytest.mark.parametrize("mtu", [1280, 1400])
@pytest.mark.parametrize("transport", [TCP, UDP])
def test_what_does_not_fit_is_told_the_mtu(
    wire: Wire, answers: Answers, family: int, transport: type[Packet], mtu: int
) -> None:
    """The error names the MTU and quotes the packet."""
    packet = header(family) / transport(**PORTS) / Raw(bytes(1440))
    answers.order(mtu=mtu)
    try:
        wire.send(framed(wire, packet))
    finally:
        answers.order()

    expected = too_big(family, mtu, quoted(packet, header(family)))
    assert framed(wire, expected, reply=True) == wire.receive()[0]


def test_segments_not_yet_cut_that_do_not_fit_get_one_error(
    wire: Wire, answers: Answers, family: int
) -> None:
    """A packet that stands for many is one packet when it is answered."""
    packet = header(family) / TCP(**PORTS, flags="A", chksum=0xBEEF) / Raw(bytes(9000))
    l4 = wire.l3 + len(header(family))
    answers.order(mtu=1300)
    try:
        wire.send(framed(wire, packet), Offload(l4, 16, 1 if family == 4 else 4, l4 + 20, 1400))
    finally:
        answers.order()

    data, _ = wire.receive()
    quote = bytearray(quoted(packet, header(family)))
    at = len(data) - QUOTE + 16
    quote[-QUOTE + 16 : -QUOTE + 18] = data[at : at + 2]
    assert framed(wire, too_big(family, 1300, bytes(quote)), reply=True) == data
    assert not wire.waiting()
