# SPDX-License-Identifier: Apache-2.0
"""Answers in place of a packet: resets and port unreachable, byte for byte, and their limit."""

from __future__ import annotations

import socket

import pytest
from scapy.layers.inet import ICMP, IPOption_NOP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6ExtHdrDestOpt

from kubeproxy_bpf.plan.records import VipFlags

from . import frames
from .frames import TCP, Ends, Packet, Raw
from .hooks import Hooks, Seen, Verdict
from .node import MAC, NODE, OUTSIDE, REMOTE_POD, UPLINK
from .world import CLUSTER_IP, NODE_PORT, PacketWorld

pytestmark = pytest.mark.root

VIP = ("10.96.0.1", "fd00:10:96::1")
QUOTE = 64
families = pytest.mark.parametrize("family", (0, 1), ids=("ipv4", "ipv6"))


@pytest.fixture
def empty(world: PacketWorld) -> None:
    """VIPs of both families without endpoints, and node ports."""
    for family in (0, 1):
        for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP, 132):
            world.service(
                (CLUSTER_IP, VIP[family], 80),
                (NODE_PORT, VIP[family], 30080),
                protocol=protocol,
                flags=0,
            )


def dialled(family: int, port: int = 80) -> Ends:
    return Ends(OUTSIDE[family], 40000, VIP[family], port)


def reply_head(ends: Ends) -> Packet:
    """An IP header of the node's own making."""
    back = ends.reply()
    return (
        frames.network(back, 64)
        if ":" in back.source
        else frames.network(back, 64, id=0, flags="DF")
    )


def reset(ends: Ends, **fields: object) -> Packet:
    back = ends.reply()
    return reply_head(ends) / TCP(
        sport=back.source_port, dport=back.destination_port, window=0, **fields
    )


def unreachable(ends: Ends, content: Packet, header: int = 0) -> Packet:
    """Port unreachable, quoting the IP header and what is behind it."""
    quote = frames.raw(content)[: (header or (40 if ":" in ends.source else 20)) + QUOTE]
    kind = ICMPv6DestUnreach(code=4) if ":" in ends.source else ICMP(type=3, code=3)
    return reply_head(ends) / kind / Raw(quote)


def enter(hooks: Hooks, content: Packet) -> Seen:
    seen = hooks.ingress(UPLINK, frames.frame(content, MAC[UPLINK]))
    assert seen.verdict is Verdict.REDIRECT
    swapped = bytes.fromhex((frames.CLIENT_MAC + MAC[UPLINK]).replace(":", ""))
    assert seen.data[:12] == swapped
    return seen


@families
@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("size", (0, 1, 7, 500))
def test_reset(hooks: Hooks, family: int, size: int) -> None:
    """Who connects where nobody serves gets a reset that acknowledges all that was sent (C10)."""
    ends = dialled(family)
    seen = enter(hooks, frames.packet("TCP", ends, payload=b"x" * size))
    wanted = reset(ends, flags="RA", seq=0, ack=1001 + size)
    assert frames.difference(seen.data, wanted) == ""


@families
@pytest.mark.usefixtures("empty")
def test_reset_without_options(hooks: Hooks, family: int) -> None:
    """Options of TCP and IP, and extension headers, are not sent back."""
    ends = dialled(family)
    extra = {} if family else {"options": [IPOption_NOP()] * 8}
    head = frames.network(ends, **extra)
    if family:
        head = head / IPv6ExtHdrDestOpt()
    content = head / frames.transport("TCP", ends, payload=b"", options=[("MSS", 1460)] * 3)
    wanted = reset(ends, flags="RA", seq=0, ack=1001)
    assert frames.difference(enter(hooks, content).data, wanted) == ""


@families
@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("protocol", ("UDP", "SCTP"))
@pytest.mark.parametrize("size", (0, 1, 7, 55, 56, 57, 900))
def test_port_unreachable(hooks: Hooks, family: int, protocol: str, size: int) -> None:
    """A datagram to nobody is answered with port unreachable, in the name of the VIP (C10)."""
    ends = dialled(family)
    content = frames.packet(protocol, ends, payload=bytes(range(250)) * 4)
    content = frames.packet(protocol, ends, payload=(bytes(range(250)) * 4)[:size])
    assert frames.difference(enter(hooks, content).data, unreachable(ends, content)) == ""


@families
@pytest.mark.usefixtures("empty")
def test_port_unreachable_quotes_headers(hooks: Hooks, family: int) -> None:
    """The quote holds IP options and extension headers as they came."""
    ends = dialled(family)
    extra = {} if family else {"options": [IPOption_NOP()] * 8}
    head = frames.network(ends, **extra)
    if family:
        head = head / IPv6ExtHdrDestOpt()
    content = head / frames.transport("UDP", ends, payload=bytes(100))
    wanted = unreachable(ends, content, header=48 if family else 28)
    assert frames.difference(enter(hooks, content).data, wanted) == ""


@families
@pytest.mark.usefixtures("empty")
def test_unknown_port(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """A cluster IP refuses the ports that no service has (H1), a node address does not."""
    ends = dialled(family, 81)
    seen = enter(hooks, frames.packet("TCP", ends))
    assert frames.difference(seen.data, reset(ends, flags="RA", seq=0, ack=1008)) == ""
    assert world.counted() == {"PACKET_UNKNOWN_PORT": 1}
    other = Ends(OUTSIDE[family], 40000, NODE[family], 81)
    data = frames.frame(frames.packet("TCP", other), MAC[UPLINK])
    assert hooks.ingress(UPLINK, data) == (Verdict.UNSPEC, data)


@families
def test_strange_segments(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """A segment of no flow is reset with the sequence number that the sender expects."""
    world.service((CLUSTER_IP, VIP[family], 80), remote=[REMOTE_POD[family]])
    ends = dialled(family)
    for flags in ("A", "PA", "FA", "SA"):
        seen = enter(hooks, frames.packet("TCP", ends, flags=flags, ack=777))
        assert frames.difference(seen.data, reset(ends, flags="R", seq=777, ack=0)) == ""
    assert world.counted() == {"UNKNOWN_TCP": 4}
    assert not world.flows()


@families
@pytest.mark.usefixtures("empty")
def test_resets_are_not_answered(hooks: Hooks, family: int) -> None:
    """Two who reset each other would never end."""
    data = frames.frame(frames.packet("TCP", dialled(family), flags="R"), MAC[UPLINK])
    assert hooks.ingress(UPLINK, data).verdict is Verdict.DROP


@families
@pytest.mark.usefixtures("empty")
def test_host_is_answered(hooks: Hooks, family: int) -> None:
    """A socket of the host gets its answer on this host."""
    ends = Ends(NODE[family], 40000, VIP[family], 80)
    seen = hooks.egress(UPLINK, frames.frame(frames.packet("TCP", ends), MAC[UPLINK]))
    assert seen.verdict is Verdict.REDIRECT
    assert frames.difference(seen.data, reset(ends, flags="RA", seq=0, ack=1008)) == ""


@families
@pytest.mark.usefixtures("empty")
def test_xdp_leaves_answers_to_tc(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """XDP passes up what has to be answered, unchanged and not counted: TC will."""
    for port in (80, 81):
        data = frames.frame(frames.packet("TCP", dialled(family, port)), MAC[UPLINK])
        assert hooks.xdp(UPLINK, data) == (Verdict.UNSPEC, data)
    assert not world.counted()


def test_unused_addresses(hooks: Hooks, world: PacketWorld) -> None:
    """Addresses of a ServiceCIDR that no Service has, or no more, are dropped where packets leave
    (H2): another proxy's rules come before that."""
    world.node(service_cidrs=["10.96.0.0/16", "fd00:10:96::/112"])
    world.vip("10.96.0.77", VipFlags.LINGER | VipFlags.CLUSTER_IP)
    dropped = ("10.96.0.99", "fd00:10:96::99", "10.96.255.255", "10.96.0.77")
    for address in (*dropped, "10.97.0.0", "10.95.255.255", "fd00:10:96::1:0"):
        source = OUTSIDE[":" in address]
        data = frames.frame(frames.packet("UDP", Ends(source, 1, address, 2)), MAC[UPLINK])
        assert hooks.ingress(UPLINK, data).verdict is Verdict.UNSPEC
        assert hooks.xdp(UPLINK, data).verdict is Verdict.UNSPEC
        wanted = Verdict.DROP if address in dropped else Verdict.UNSPEC
        assert hooks.egress(UPLINK, data).verdict is wanted, address
    assert world.counted() == {"PACKET_UNUSED_ADDRESS": 4}
