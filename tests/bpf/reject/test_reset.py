# SPDX-License-Identifier: Apache-2.0
"""TCP resets, byte by byte."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Packet

from .packets import framed, header, options, refused
from .places import Offload, Wire

pytestmark = [
    pytest.mark.root,
    pytest.mark.parametrize("family", [4, 6]),
]

ENDS = {"sport": 40000, "dport": 80}
TOLD = {"seq": 777, "ack": 0, "flags": "R"}
UNTOLD = {"seq": 0, "flags": "RA"}
TCP_OPTIONS = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 2)), ("NOP", None)]


def reset(family: int, fields: dict[str, Any]) -> Packet:
    answer = TCP(sport=80, dport=40000, window=0, **fields)
    return refused(family) / answer


@pytest.mark.parametrize(
    ("sent", "payload", "answer"),
    [
        ({"flags": "S", "seq": 1000}, b"", UNTOLD | {"ack": 1001}),
        ({"flags": "S", "seq": 1000, "options": TCP_OPTIONS}, b"", UNTOLD | {"ack": 1001}),
        ({"flags": "S", "seq": 0xFFFFFFFF}, b"", UNTOLD | {"ack": 0}),
        ({"flags": "S", "seq": 5}, b"early", UNTOLD | {"ack": 11}),
        ({"flags": "F", "seq": 1000}, b"odd", UNTOLD | {"ack": 1004}),
        ({"flags": "A", "seq": 1000, "ack": 777}, b"", TOLD),
        ({"flags": "PA", "seq": 1000, "ack": 777}, bytes(1400), TOLD),
        ({"flags": "FA", "seq": 1000, "ack": 777}, b"", TOLD),
    ],
)
def test_a_segment_is_reset_as_rfc_9293_says(
    wire: Wire, family: int, sent: dict[str, Any], payload: bytes, answer: dict[str, Any]
) -> None:
    """In sequence if the segment says what that is, else with all of it acknowledged."""
    wire.send(framed(wire, header(family) / TCP(**ENDS, **sent) / payload))

    assert framed(wire, reset(family, answer), reply=True) == wire.receive()[0]


def test_options_of_ip_are_left_out(wire: Wire, family: int) -> None:
    """A reset has a plain IP header, whatever the segment had."""
    segment = TCP(**ENDS, flags="S", seq=1000)

    wire.send(framed(wire, options(family) / segment))

    assert framed(wire, reset(family, UNTOLD | {"ack": 1001}), reply=True) == wire.receive()[0]


def test_a_reset_is_never_answered(wire: Wire, family: int) -> None:
    """Two that reset each other would never end."""
    wire.send(framed(wire, header(family) / TCP(**ENDS, flags="R", seq=1000)))
    wire.send(framed(wire, header(family) / TCP(**ENDS, flags="RA", seq=1000)))

    assert not wire.waiting()


def test_a_header_longer_than_the_packet_is_not_answered(wire: Wire, family: int) -> None:
    """Nobody knows what such a segment occupies."""
    wire.send(framed(wire, header(family) / TCP(**ENDS, flags="S", dataofs=15)))
    wire.send(framed(wire, header(family) / TCP(**ENDS, flags="S", dataofs=4)))

    assert not wire.waiting()


@pytest.mark.parametrize(
    "source", [("224.0.0.1", "ff02::1"), ("0.0.0.0", "::"), ("127.0.0.1", "::1")]
)
def test_nobody_is_not_answered(wire: Wire, family: int, source: tuple[str, str]) -> None:
    """A source that is no single host, or cannot be beyond this device, gets no answer."""
    wire.send(framed(wire, header(family, source) / TCP(**ENDS, flags="S")))

    assert not wire.waiting()


@pytest.mark.parametrize("completes", [False, True], ids=["device", "kernel"])
def test_a_checksum_to_be_completed_is_right_when_it_is(
    wire: Wire, family: int, completes: bool
) -> None:
    """A segment whose checksum is left to the device becomes a reset that is right on the wire."""
    packet = header(family) / TCP(**ENDS, flags="S", seq=1000, options=TCP_OPTIONS)
    wire.leave_checksums(not completes)

    wire.send(framed(wire, packet), Offload(wire.l3 + len(header(family)), 16))
    data, left = wire.receive()

    wire.leave_checksums(False)
    expected = framed(wire, reset(family, UNTOLD | {"ack": 1001}), reply=True)
    assert (left is None) == completes
    assert expected == (completed(data, left) if left else data)


def test_segments_not_yet_cut_get_one_reset(wire: Wire, family: int) -> None:
    """A packet that stands for many is one packet when it is refused."""
    packet = header(family) / TCP(**ENDS, flags="A", seq=1000, ack=777) / bytes(9000)
    l4 = wire.l3 + len(header(family))

    wire.send(framed(wire, packet), Offload(l4, 16, 1 if family == 4 else 4, l4 + 20, 1400))

    assert framed(wire, reset(family, TOLD), reply=True) == wire.receive()[0]
    assert not wire.waiting()


def completed(data: bytes, left: Offload) -> bytes:
    """What a device does that completes checksums."""
    at = left.start + left.offset
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(left.start, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return data[:at] + (0xFFFF - total).to_bytes(2, "big") + data[at + 2 :]
