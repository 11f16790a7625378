# SPDX-License-Identifier: Apache-2.0
"""Headers of all kinds: translated where they can be, else passed on exactly as they came."""

from __future__ import annotations

import socket
from typing import Callable

import pytest
from scapy.layers.inet import IPOption_NOP, IPOption_RR, fragment
from scapy.layers.inet6 import (
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    fragment6,
)

from . import frames
from .frames import IP, UDP, Ends, IPv6, Packet
from .hooks import Hooks, Seen, Verdict
from .node import (
    LOCAL_POD,
    LOCAL_POD_L3,
    MAC,
    NODE,
    OUTSIDE,
    OUTSIDE_L3,
    POD,
    REMOTE_POD,
    REMOTE_POD_L3,
    TUNNEL,
    UPLINK,
)
from .world import EXTERNAL_LOCAL, NODE_PORT, PacketWorld

pytestmark = pytest.mark.root

NUMBER = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP, "SCTP": 132}
SERVED = 30080
SHORTEST = (34, 54)
"""Bytes of a frame that a test-run of TC accepts: a whole IP header."""
families = pytest.mark.parametrize("family", (0, 1), ids=("ipv4", "ipv6"))
both = pytest.mark.parametrize("protocol", ("TCP", "UDP"))


def outer(family: int) -> Ends:
    return Ends(OUTSIDE[family], 40000, NODE[family], SERVED)


def serve_local(world: PacketWorld, family: int, protocol: str = "UDP") -> Ends:
    """A node port to a local pod, without masquerading; return the flow behind the rewrite."""
    world.service(
        (NODE_PORT, NODE[family], SERVED),
        local=[LOCAL_POD[family]],
        protocol=NUMBER[protocol],
        flags=EXTERNAL_LOCAL,
    )
    return outer(family).to(LOCAL_POD[family], 8080)


def serve_remote(world: PacketWorld, family: int, protocol: str = "UDP") -> None:
    world.service(
        (NODE_PORT, NODE[family], SERVED), remote=[REMOTE_POD[family]], protocol=NUMBER[protocol]
    )


def enter(hooks: Hooks, content: Packet, vlan: int = 0) -> Seen:
    return hooks.ingress(UPLINK, frames.frame(content, MAC[UPLINK], vlan))


def untouched(seen: Seen, sent: bytes) -> bool:
    return seen == (Verdict.UNSPEC, sent)


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
    serve_remote(world, family, protocol)
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


# ---- fragments ----


def pieces(ends: Ends, size: int = 4000) -> list[Packet]:
    """A datagram in fragments."""
    payload = bytes(range(256)) * (size // 256 + 1)
    datagram = frames.transport("UDP", ends, payload=payload[:size])
    if ":" not in ends.source:
        whole = type(IP())(frames.raw(frames.network(ends, id=77) / datagram))
        return list(fragment(whole, 1208))
    whole = frames.network(ends) / IPv6ExtHdrFragment(id=77) / datagram
    return list(fragment6(IPv6(frames.raw(whole)), 1280))


@families
def test_fragments_in_order(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """The first fragment tells the ports to those after it."""
    behind = serve_local(world, family)
    for sent, wanted in zip(pieces(outer(family)), pieces(behind), strict=True):
        assert frames.difference(enter(hooks, sent).data, wanted) == ""
    assert world.counted() == {"FLOW_NEW": 1}


@families
def test_fragments_of_an_answer(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """Replies come in fragments too, and leave with the address that the client dialled."""
    behind = serve_local(world, family)
    enter(hooks, frames.packet("UDP", outer(family)))
    answers = zip(pieces(behind.reply()), pieces(outer(family).reply()), strict=True)
    for sent, wanted in answers:
        seen = hooks.egress(UPLINK, frames.frame(sent, MAC[UPLINK]))
        assert frames.difference(seen.data, wanted) == ""


@families
def test_fragments_of_a_masqueraded_flow(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """Every hook that a fragment passes finds its ports, in both directions."""
    world.service((NODE_PORT, NODE[family], SERVED), local=[LOCAL_POD[family]], protocol=17)
    middle = outer(family).to(LOCAL_POD[family], 8080)
    first = hooks.egress(POD, enter(hooks, frames.packet("UDP", outer(family))).data)
    inner = frames.ends_of(frames.read(first.data))
    for sent, between, wanted in zip(*map(pieces, (outer(family), middle, inner)), strict=True):
        seen = enter(hooks, sent)
        assert frames.difference(seen.data, between) == ""
        assert frames.difference(hooks.egress(POD, seen.data).data, wanted) == ""
    ways = (inner.reply(), middle.reply(), outer(family).reply())
    for sent, between, wanted in zip(*map(pieces, ways), strict=True):
        seen = hooks.ingress(POD, frames.frame(sent, MAC[POD]))
        assert frames.difference(seen.data, between) == ""
        assert frames.difference(hooks.egress(UPLINK, seen.data).data, wanted) == ""


@families
def test_fragments_straight_out(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """Fragments of a flow to a remote backend are redirected like its other packets."""
    serve_remote(world, family)
    inner = frames.ends_of(frames.read(enter(hooks, frames.packet("UDP", outer(family))).data))
    for ends, to in ((outer(family), inner), (inner.reply(), outer(family).reply())):
        for sent, wanted in zip(pieces(ends), pieces(to), strict=True):
            seen = enter(hooks, sent)
            if family:
                wanted.hlim = 63
            else:
                wanted.ttl = 63
                del wanted.chksum
            assert frames.difference(seen.data, wanted) == ""
            assert seen.verdict is Verdict.REDIRECT


@families
def test_a_fragment_before_the_first(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """Without the ports nobody knows whose it is: counted, and left to the stack."""
    serve_local(world, family)
    first, second, *_ = pieces(outer(family))
    sent = frames.frame(second, MAC[UPLINK])
    assert untouched(hooks.ingress(UPLINK, sent), sent)
    assert untouched(hooks.xdp(UPLINK, sent), sent)
    assert world.count("FRAGMENT_LOST")
    assert not world.flows()
    enter(hooks, first)
    assert not untouched(hooks.ingress(UPLINK, sent), sent)


@families
def test_fragments_of_others(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """Fragments of no concern are neither counted nor remembered."""
    for part in pieces(outer(family).to(LOCAL_POD[family], 80)):
        sent = frames.frame(part, MAC[UPLINK])
        assert untouched(hooks.ingress(UPLINK, sent), sent)
        assert untouched(hooks.egress(POD, sent), sent)
    assert not world.counted()
    assert not world.entries("kpb_fragments")


# ---- devices without Ethernet header ----


def bare(protocol: str, ends: Ends, ttl: int = 64, **fields: str) -> Packet:
    """A packet whose first byte a test-run does not take for the MAC of another host."""
    kind = {"tc": 0x10} if ":" in ends.source else {}
    return frames.network(ends, ttl, **kind) / frames.transport(protocol, ends, **fields)


def serve_tunnel(
    world: PacketWorld, family: int, protocol: str, **served: object
) -> tuple[Ends, dict[str, str]]:
    """A client behind the tunnel, and what answers look like."""
    front = (NODE_PORT, NODE[family], SERVED)
    world.service(front, protocol=NUMBER[protocol], **served)  # type: ignore[arg-type]
    answer = {"flags": "SA"} if protocol == "TCP" else {}
    return Ends(OUTSIDE_L3[family], 40000, NODE[family], SERVED), answer


@families
@both
def test_tunnels(hooks: Hooks, world: PacketWorld, family: int, protocol: str) -> None:
    """On devices that begin with the IP header a flow goes both ways as on others."""
    pod = LOCAL_POD_L3[family]
    ends, answer = serve_tunnel(world, family, protocol, local=[pod], flags=EXTERNAL_LOCAL)
    behind = ends.to(pod, 8080)
    seen = hooks.ingress_l3(TUNNEL, frames.raw(bare(protocol, ends)))
    assert seen.verdict is Verdict.UNSPEC
    assert frames.difference(seen.data, bare(protocol, behind), header=0) == ""
    seen = hooks.egress_l3(TUNNEL, frames.raw(bare(protocol, behind.reply(), **answer)))
    assert seen.verdict is Verdict.UNSPEC
    assert frames.difference(seen.data, bare(protocol, ends.reply(), **answer), header=0) == ""


@families
@both
def test_tunnel_to_a_remote_backend(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """What has no Ethernet header is lent one for the way straight out."""
    pod = REMOTE_POD_L3[family]
    ends, answer = serve_tunnel(world, family, protocol, remote=[pod])
    seen = hooks.ingress_l3(TUNNEL, frames.raw(bare(protocol, ends)))
    assert seen.verdict is Verdict.REDIRECT
    lent, content = seen.data[:14], seen.data[14:]
    assert lent == bytes(14)
    inner = frames.ends_of((IPv6 if family else IP)(content))
    assert inner[2:] == (pod, 8080)
    assert frames.difference(seen.data, bare(protocol, inner, 63)) == ""
    sent = frames.frame(bare(protocol, inner.reply(), **answer), MAC[UPLINK])
    seen = hooks.ingress(UPLINK, sent)
    assert seen.verdict is Verdict.REDIRECT
    assert frames.difference(seen.data, bare(protocol, ends.reply(), 63, **answer)) == ""


@families
def test_segments_of_offload(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """A packet that stands for many, larger than any device takes, is no packet that is too big."""
    serve_remote(world, family, "TCP")
    enter(hooks, frames.packet("TCP", outer(family)))
    large = frames.packet("TCP", outer(family), flags="A", payload=bytes(3000))
    seen = hooks.ingress(UPLINK, frames.frame(large, MAC[UPLINK]), gso_size=1400)
    inner = frames.ends_of(frames.read(seen.data))
    assert seen.verdict is Verdict.REDIRECT
    wanted = frames.packet("TCP", inner, 63, flags="A", payload=bytes(3000))
    assert frames.difference(seen.data, wanted) == ""
