# SPDX-License-Identifier: Apache-2.0
"""ICMP errors about packets of a flow: translated with the packet that they quote.

A client's packet (CLIENT → VIP) went on as (NODE → BACKEND). Something on the way, or the backend,
complains about that to the node; the client must see a complaint about its own packet.
"""

from __future__ import annotations

from typing import Any, Iterator

import pytest
from scapy.compat import raw
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from .conftest import VIPS, Answers, Change
from .packets import CLIENTS, framed
from .places import Wire

pytestmark = [
    pytest.mark.root,
    pytest.mark.parametrize("family", [4, 6]),
]

NODE = ("192.168.0.1", "fd00:192:168::1")
BACKEND = ("10.244.2.10", "fd00:10:244:2::a")
ROUTER = ("192.168.0.254", "fd00:192:168::fe")
PORT, BACKEND_PORT, CLIENT_PORT, NODE_PORT = 80, 8080, 40000, 20001


@pytest.fixture(autouse=True)
def flow(answers: Answers, family: int) -> Iterator[None]:
    """Packets from the backend go to the client, in the name of the VIP."""
    at = family // 6
    answers.order(change=Change(VIPS[at], PORT, CLIENTS[at], CLIENT_PORT))
    yield
    assert 0 == answers.untranslated()
    answers.order()


def ip(source: tuple[str, str], destination: tuple[str, str], family: int, **more: Any) -> Packet:
    if family == 4:
        return IP(src=source[0], dst=destination[0], ttl=55, id=9, **more)
    return IPv6(src=source[1], dst=destination[1], hlim=55)


def error(family: int, name: str = "unreachable") -> Packet:
    """The ICMP header of an error."""
    kinds = {
        "unreachable": (ICMP(type=3, code=3), ICMPv6DestUnreach(code=4)),
        "expired": (ICMP(type=11, code=0), ICMPv6TimeExceeded()),
        "too big": (ICMP(type=3, code=4, nexthopmtu=1300), ICMPv6PacketTooBig(mtu=1300)),
    }
    return kinds[name][family // 6]


def sent(family: int, header: type[Packet], **more: Any) -> Packet:
    """What left the node towards the backend."""
    return ip(NODE, BACKEND, family, **more) / header(sport=NODE_PORT, dport=BACKEND_PORT)


def dialled(family: int, header: type[Packet], **more: Any) -> Packet:
    """What the client had sent."""
    return ip(CLIENTS, VIPS, family, **more) / header(sport=CLIENT_PORT, dport=PORT)


def check(
    wire: Wire, family: int, came: bytes, expected: bytes, speaker: str = "router", **kind: str
) -> None:
    """An error with one quote becomes an error with the other, and nothing else of it changes."""
    seen_as = {"router": (ROUTER, VIPS), "backend": (BACKEND, VIPS)}[speaker]

    wire.send(framed(wire, ip(seen_as[0], NODE, family) / error(family, **kind) / Raw(came)))

    outer = ip(seen_as[1], CLIENTS, family) / error(family, **kind) / Raw(expected)
    assert framed(wire, outer) == wire.receive()[0]


@pytest.mark.parametrize("speaker", ["router", "backend"])
@pytest.mark.parametrize("name", ["unreachable", "expired", "too big"])
@pytest.mark.parametrize("transport", [TCP, UDP])
def test_the_client_sees_its_own_packet(
    wire: Wire, family: int, transport: type[Packet], name: str, speaker: str
) -> None:
    """Who complains, router or backend, does it in the name of the VIP."""
    payload = Raw(b"seven b")

    check(
        wire,
        family,
        raw(sent(family, transport) / payload),
        raw(dialled(family, transport) / payload),
        speaker,
        name=name,
    )


@pytest.mark.parametrize("transport", [TCP, UDP])
def test_a_quote_may_end_behind_the_ports(wire: Wire, family: int, transport: type[Packet]) -> None:
    """Eight bytes are all that an error must quote; of TCP the checksum is not among them."""
    length = (20 if family == 4 else 40) + 8

    check(
        wire,
        family,
        raw(sent(family, transport))[:length],
        raw(dialled(family, transport))[:length],
    )


def test_a_datagram_without_checksum_stays_so(wire: Wire, family: int) -> None:
    """Zero says that there is none; no difference is added to it."""
    came, expected = sent(family, UDP), dialled(family, UDP)
    came[UDP].chksum = expected[UDP].chksum = 0

    check(wire, family, raw(came), raw(expected))


def test_ports_of_sctp_stand_outside_of_checksums(wire: Wire, family: int) -> None:
    """The checksum of SCTP covers no address: of the quote only addresses and ports change."""
    came, expected = sent(family, SCTP) / Raw(bytes(16)), dialled(family, SCTP) / Raw(bytes(16))
    came[SCTP].chksum = expected[SCTP].chksum = 0x12345678

    check(wire, family, raw(came), raw(expected))


def test_options_of_a_quoted_header_stay(wire: Wire, family: int) -> None:
    """The ports are found behind them."""
    if family == 6:
        return
    noops = [IPOption_NOP()] * 4

    check(
        wire,
        family,
        raw(sent(family, UDP, options=noops)),
        raw(dialled(family, UDP, options=noops)),
    )


def test_a_wrong_checksum_stays_wrong_by_as_much(wire: Wire, family: int) -> None:
    """Checksums are updated, not made: damage on the way is not hidden."""
    came, expected = sent(family, TCP) / Raw(b"abcd"), dialled(family, TCP) / Raw(b"abcd")
    came_raw, expected_raw = bytearray(raw(came)), bytearray(raw(expected))
    came_raw[-1] ^= 1
    expected_raw[-1] ^= 1

    check(wire, family, bytes(came_raw), bytes(expected_raw))


def test_a_checksum_does_not_become_none(wire: Wire, family: int) -> None:
    """A sum that comes out as zero is written as 0xffff: zero would say that there is none."""
    blank = dialled(family, UDP) / Raw(bytes(2))
    rest = type(blank)(raw(blank))[UDP].chksum.to_bytes(2, "big")

    assert 0xFFFF == type(blank)(raw(dialled(family, UDP) / Raw(rest)))[UDP].chksum
    check(wire, family, raw(sent(family, UDP) / Raw(rest)), raw(dialled(family, UDP) / Raw(rest)))
