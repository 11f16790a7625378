# SPDX-License-Identifier: Apache-2.0
"""Headers of all kinds: translated where they can be, else passed on exactly as they came."""

from __future__ import annotations

from typing import Callable

import pytest
from scapy.layers.inet import IPOption_NOP, IPOption_RR
from scapy.layers.inet6 import (
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Jumbo,
    PadN,
)

from . import frames
from .frames import UDP, Ends, Packet
from .hooks import Hooks, Verdict
from .node import MAC, UPLINK
from .scene import both, enter, families, outer, serve_local, serve_remote, untouched
from .world import PacketWorld

pytestmark = pytest.mark.root

SHORTEST = (34, 54)
"""Bytes of a frame that a test-run of TC accepts: a whole IP header."""


@families
@both
def test_vlan_tags_pass(hooks: Hooks, world: PacketWorld, family: int, protocol: str) -> None:
    """A tagged frame belongs to the VLAN device, whose own programs will see it without."""
    serve_local(world, family, protocol)
    sent = frames.frame(frames.packet(protocol, outer(family)), MAC[UPLINK], vlan=42)
    for seen in (hooks.ingress(UPLINK, sent), hooks.xdp(UPLINK, sent), hooks.egress(UPLINK, sent)):
        assert untouched(seen, sent)
    assert not world.flows()


@both
def test_ipv4_options(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """Options move the transport header, and stay."""
    behind = serve_local(world, 0, protocol)
    for options in ([IPOption_NOP()] * 4, [IPOption_RR(routers=["0.0.0.0"] * 9)]):

        def packet(ends: Ends) -> Packet:
            return frames.network(ends, options=options) / frames.transport(protocol, ends)

        for hook in (hooks.ingress, hooks.xdp):
            seen = hook(UPLINK, frames.frame(packet(outer(0)), MAC[UPLINK]))
            assert frames.difference(seen.data, packet(behind)) == ""


EXTENSIONS: dict[str, Callable[[], Packet]] = {
    "hop-by-hop": lambda: IPv6ExtHdrHopByHop(options=[PadN(optdata=b"123456789")]),
    "destination": lambda: IPv6ExtHdrDestOpt(options=[PadN(optdata=b"1")]),
    "routing": lambda: IPv6ExtHdrRouting(addresses=[], segleft=0),
    "two": lambda: IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(),
    "atomic-fragment": lambda: IPv6ExtHdrFragment(offset=0, m=0, id=1),
}


@both
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_ipv6_extension_headers(
    hooks: Hooks, world: PacketWorld, protocol: str, extension: str
) -> None:
    """The transport header is found behind extension headers."""
    behind = serve_local(world, 1, protocol)

    def packet(ends: Ends) -> Packet:
        return frames.network(ends) / EXTENSIONS[extension]() / frames.transport(protocol, ends)

    for hook in (hooks.ingress, hooks.xdp):
        seen = hook(UPLINK, frames.frame(packet(outer(1)), MAC[UPLINK]))
        assert frames.difference(seen.data, packet(behind)) == ""


def test_endless_extension_headers(hooks: Hooks, world: PacketWorld) -> None:
    """More extension headers than are looked at: none of our concern."""
    serve_local(world, 1)
    content = frames.network(outer(1))
    for _ in range(20):
        content = content / IPv6ExtHdrDestOpt()
    sent = frames.frame(content / frames.transport("UDP", outer(1)), MAC[UPLINK])
    assert untouched(hooks.ingress(UPLINK, sent), sent)
    assert untouched(hooks.xdp(UPLINK, sent), sent)


@families
@both
def test_truncated_at_every_length(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """A packet that is shorter than it says goes on as it is, wherever it is cut."""
    serve_local(world, family, protocol)
    whole = frames.frame(frames.packet(protocol, outer(family), payload=b"0123456789"), MAC[UPLINK])
    for length in range(15, len(whole)):
        cut = whole[:length]
        assert untouched(hooks.xdp(UPLINK, cut), cut), length
        if length >= SHORTEST[family]:
            assert untouched(hooks.ingress(UPLINK, cut), cut), length
            assert untouched(hooks.egress(UPLINK, cut), cut), length
    assert not world.flows()
    assert set(world.counted()) <= {"MALFORMED"}


@families
def test_headers_that_lie(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """Lengths that point outside of the packet, wrong versions: passed on, counted."""
    serve_local(world, family)
    right = frames.frame(frames.packet("UDP", outer(family)), MAC[UPLINK])
    for offset, value in ((14, 0x00), (14, 0x4F), (14, 0x44), (14, 0x50), (14, 0xF5)):
        wrong = bytearray(right)
        wrong[offset] = value
        if wrong == right or (family and value >> 4 == 6):
            continue
        for hook in (hooks.ingress, hooks.xdp, hooks.egress):
            assert untouched(hook(UPLINK, bytes(wrong)), bytes(wrong)), hex(value)
    assert not world.flows()
    assert world.count("MALFORMED")


@families
@both
def test_ports_behind_the_end(hooks: Hooks, world: PacketWorld, family: int, protocol: str) -> None:
    """A transport header that the IP header's length does not cover is none, padding or not."""
    serve_local(world, family, protocol)
    right = frames.frame(frames.packet(protocol, outer(family)), MAC[UPLINK])
    field, header = ((18, 0), (16, 20))[not family]
    for length in range(20 if protocol == "TCP" else 8):
        wrong = bytearray(right)
        wrong[field : field + 2] = (header + length).to_bytes(2, "big")
        for hook in (hooks.ingress, hooks.xdp, hooks.egress):
            assert untouched(hook(UPLINK, bytes(wrong)), bytes(wrong)), length
    assert not world.flows()


@families
def test_length_beyond_the_payload(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """A frame may be longer than its packet, as short ones are padded: the padding stays."""
    behind = serve_local(world, family)
    content = frames.packet("UDP", outer(family), payload=b"x")
    seen = hooks.ingress(UPLINK, frames.frame(content, MAC[UPLINK]) + bytes(17))
    assert seen.data[14:-17] == frames.raw(frames.packet("UDP", behind, payload=b"x"))
    assert seen.data.endswith(bytes(17))


def test_udp_without_checksum(hooks: Hooks, world: PacketWorld) -> None:
    """A UDP checksum of zero means none, before and after."""
    behind = serve_local(world, 0)

    def packet(ends: Ends) -> Packet:
        return frames.packet("UDP", ends, chksum=0)

    for hook in (hooks.ingress, hooks.xdp):
        seen = hook(UPLINK, frames.frame(packet(outer(0)), MAC[UPLINK]))
        assert frames.difference(seen.data, packet(behind)) == ""


@families
def test_udp_checksum_that_becomes_zero(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """A sum that comes out as zero is sent as 0xffff."""
    behind = serve_local(world, family)
    plain = frames.packet("UDP", behind, payload=bytes(2))
    sum_of = type(plain)(frames.raw(plain))[UDP].chksum
    for payload in (sum_of, sum_of - 1, sum_of + 1):
        content = payload.to_bytes(2, "big")
        wanted = frames.packet("UDP", behind, payload=content)
        if payload == sum_of:
            assert type(wanted)(frames.raw(wanted))[UDP].chksum == 0xFFFF
        sent = frames.frame(frames.packet("UDP", outer(family), payload=content), MAC[UPLINK])
        for hook in (hooks.ingress, hooks.xdp):
            assert frames.difference(hook(UPLINK, sent).data, wanted) == ""


@families
def test_a_wrong_checksum_stays_wrong(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """Damage on the way in is still seen by the receiver."""
    behind = serve_local(world, family, "TCP")
    damaged = bytearray(frames.frame(frames.packet("TCP", outer(family)), MAC[UPLINK]))
    damaged[-1] ^= 0x10
    wanted = bytearray(frames.raw(frames.packet("TCP", behind)))
    wanted[-1] ^= 0x10
    assert hooks.ingress(UPLINK, bytes(damaged)).data[14:] == wanted
    assert hooks.xdp(UPLINK, bytes(damaged)).data[14:] == wanted


@families
@both
def test_last_hop(hooks: Hooks, world: PacketWorld, family: int, protocol: str) -> None:
    """Whoever forwards counts the hop: a packet at its end is not sent on, and counted."""
    serve_remote(world, protocol, family)
    for ttl in (1, 2):
        sent = frames.frame(frames.packet(protocol, outer(family), ttl), MAC[UPLINK])
        seen = hooks.ingress(UPLINK, sent)
        assert seen.verdict is (Verdict.DROP if ttl == 1 else Verdict.REDIRECT)
        assert world.count("HOP_LIMIT") == 1


@families
def test_last_hop_to_a_local_pod(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """What goes through the stack is counted by the stack."""
    behind = serve_local(world, family)
    seen = enter(hooks, frames.packet("UDP", outer(family), 1))
    assert seen.verdict is Verdict.UNSPEC
    assert frames.difference(seen.data, frames.packet("UDP", behind, 1)) == ""


@families
def test_segments_of_offload(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """A packet that stands for many, larger than any device takes, is no packet that is too big."""
    serve_remote(world, "TCP", family)
    enter(hooks, frames.packet("TCP", outer(family)))
    large = frames.packet("TCP", outer(family), flags="A", payload=bytes(3000))
    seen = hooks.ingress(UPLINK, frames.frame(large, MAC[UPLINK]), gso_size=1400)
    inner = frames.ends_of(frames.read(seen.data))
    assert seen.verdict is Verdict.REDIRECT
    wanted = frames.packet("TCP", inner, 63, flags="A", payload=bytes(3000))
    assert frames.difference(seen.data, wanted) == ""


@families
def test_segments_longer_than_a_length_field(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """Big TCP: a length of zero is the buffer's for segments, and wrong for a single packet."""
    behind = serve_local(world, family, "TCP")

    def big(ends: Ends) -> Packet:
        transport = frames.transport("TCP", ends, payload=bytes(3000))
        if not family:
            return frames.network(ends, len=0) / transport
        jumbo = IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=3028)])
        return frames.network(ends, plen=0) / jumbo / transport

    sent = frames.frame(big(outer(family)), MAC[UPLINK])
    assert untouched(hooks.ingress(UPLINK, sent), sent)
    seen = hooks.ingress(UPLINK, sent, gso_size=1400)
    assert frames.difference(seen.data, big(behind)) == ""
