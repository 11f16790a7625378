# SPDX-License-Identifier: Apache-2.0
"""ICMP errors about translated packets: whoever sent the packet finds its own addresses quoted."""

from __future__ import annotations

import socket
from typing import Callable

import pytest
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
)

from . import frames
from .conversation import told_apart
from .frames import UDP, Ends, Packet, Raw
from .hooks import Hooks, Verdict
from .node import GATEWAY, LOCAL_POD, MAC, NODE, NODE_B, OUTSIDE, POD, REMOTE_POD, UPLINK
from .world import CLUSTER_IP, EXTERNAL_IP, EXTERNAL_LOCAL, NODE_PORT, PacketWorld

pytestmark = pytest.mark.root

NUMBER = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP, "SCTP": 132}
SERVED = 30080
Kind = Callable[[], Packet]
ERRORS: dict[str, tuple[Kind, Kind]] = {
    "too-big": (
        lambda: ICMP(type=3, code=4, nexthopmtu=1300),
        lambda: ICMPv6PacketTooBig(mtu=1300),
    ),
    "unreachable": (lambda: ICMP(type=3, code=3), lambda: ICMPv6DestUnreach(code=4)),
    "time-exceeded": (lambda: ICMP(type=11, code=0), lambda: ICMPv6TimeExceeded(code=0)),
    "parameter": (lambda: ICMP(type=12, code=0, ptr=1), lambda: ICMPv6DestUnreach(code=1)),
}

families = pytest.mark.parametrize("family", (0, 1), ids=("ipv4", "ipv6"))
protocols = pytest.mark.parametrize("protocol", ("TCP", "UDP", "SCTP"))
errors = pytest.mark.parametrize("error", ERRORS)
quotes = pytest.mark.parametrize("quote", (8, 16, 18, 19, 20, 36, 200))


def outer(family: int) -> Ends:
    return Ends(OUTSIDE[family], 40000, NODE[family], SERVED)


def report(
    error: str, family: int, ends: tuple[str, str], quoted: Packet, quote: int, ttl: int = 64
) -> Packet:
    """An error that quotes the header and so many bytes of a packet."""
    content = frames.raw(quoted)[: (40 if family else 20) + quote]
    head = frames.network(Ends(ends[0], 0, ends[1], 0), ttl)
    return head / ERRORS[error][family]() / Raw(content)


def quoted(protocol: str, ends: Ends) -> Packet:
    """A packet as somebody on its way got it."""
    return frames.packet(protocol, ends, 57, payload=bytes(range(100)))


def open_direct(hooks: Hooks, world: PacketWorld, family: int, protocol: str) -> Ends:
    """A flow to a remote backend; return it as the backend sees it."""
    port = SERVED if protocol == "SCTP" else 8080
    world.service(
        (NODE_PORT, NODE[family], SERVED),
        remote=[REMOTE_POD[family]],
        protocol=NUMBER[protocol],
        port=port,
    )
    sent = frames.frame(frames.packet(protocol, outer(family)), MAC[UPLINK])
    return frames.ends_of(frames.read(hooks.ingress(UPLINK, sent).data))


@families
@protocols
@errors
@quotes
def test_from_the_backend_side(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str, error: str, quote: int
) -> None:
    """A router before the backend complains to the node: the client hears it, about its packet."""
    inner = open_direct(hooks, world, family, protocol)
    router = NODE_B[family]
    sent = report(error, family, (router, NODE[family]), quoted(protocol, inner), quote)
    seen = hooks.ingress(UPLINK, frames.frame(sent, MAC[UPLINK]))
    wanted = report(
        error, family, (NODE[family], OUTSIDE[family]), quoted(protocol, outer(family)), quote, 63
    )
    assert frames.difference(seen.data, wanted) == ""
    assert seen.verdict is Verdict.REDIRECT
    assert world.count("ICMP_ERROR") == 1


@families
def test_a_quoted_checksum_that_becomes_zero(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """A UDP checksum that comes out as zero is quoted as it was sent: as 0xffff."""
    inner = open_direct(hooks, world, family, "UDP")
    plain = frames.packet("UDP", outer(family), 57, payload=bytes(2))
    payload = type(plain)(frames.raw(plain))[UDP].chksum.to_bytes(2, "big")
    theirs = frames.packet("UDP", inner, 57, payload=payload)
    ours = frames.packet("UDP", outer(family), 57, payload=payload)
    assert type(ours)(frames.raw(ours))[UDP].chksum == 0xFFFF
    router = NODE_B[family]
    sent = report("unreachable", family, (router, NODE[family]), theirs, 64)
    seen = hooks.ingress(UPLINK, frames.frame(sent, MAC[UPLINK]))
    wanted = report("unreachable", family, (NODE[family], OUTSIDE[family]), ours, 64, 63)
    assert frames.difference(seen.data, wanted) == ""


@families
@protocols
@errors
def test_from_the_client_side(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str, error: str
) -> None:
    """A router before the client complains to the VIP: the backend hears it, about its answer."""
    inner = open_direct(hooks, world, family, protocol)
    router = GATEWAY[family]
    answer = quoted(protocol, outer(family).reply())
    sent = report(error, family, (router, NODE[family]), answer, 64)
    seen = hooks.ingress(UPLINK, frames.frame(sent, MAC[UPLINK]))
    answer = quoted(protocol, inner.reply())
    wanted = report(error, family, (NODE[family], REMOTE_POD[family]), answer, 64, 63)
    assert frames.difference(seen.data, wanted) == ""
    assert seen.verdict is Verdict.REDIRECT


@families
@pytest.mark.parametrize("protocol", ("TCP", "UDP"))
def test_a_backend_speaks_as_the_vip(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """What the backend itself reports comes from the address that the client dialled."""
    inner = open_direct(hooks, world, family, protocol)
    ends = (REMOTE_POD[family], NODE[family])
    sent = report("unreachable", family, ends, quoted(protocol, inner), 64)
    seen = hooks.ingress(UPLINK, frames.frame(sent, MAC[UPLINK]))
    ends = (NODE[family], OUTSIDE[family])
    wanted = report("unreachable", family, ends, quoted(protocol, outer(family)), 64, 63)
    assert frames.difference(seen.data, wanted) == ""


@families
@pytest.mark.parametrize("protocol", ("TCP", "UDP"))
@pytest.mark.parametrize("masqueraded", (False, True))
def test_through_the_stack(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str, masqueraded: bool
) -> None:
    """A local pod's error passes netfilter like its answers: half undone before, half behind."""
    world.service(
        (NODE_PORT, NODE[family], SERVED),
        local=[LOCAL_POD[family]],
        protocol=NUMBER[protocol],
        flags=None if masqueraded else EXTERNAL_LOCAL,
    )
    middle = outer(family).to(LOCAL_POD[family], 8080)
    entered = hooks.ingress(
        UPLINK, frames.frame(frames.packet(protocol, outer(family)), MAC[UPLINK])
    )
    if masqueraded and protocol == "UDP":
        middle = told_apart(middle, entered.data)
    inner = frames.ends_of(frames.read(hooks.egress(POD, entered.data).data))
    assert (inner == middle) is not masqueraded

    ends = (LOCAL_POD[family], inner.source)
    sent = report("unreachable", family, ends, quoted(protocol, inner), 64)
    seen = hooks.ingress(POD, frames.frame(sent, MAC[POD]))
    ends = (LOCAL_POD[family], OUTSIDE[family])
    between = report("unreachable", family, ends, quoted(protocol, middle), 64)
    assert frames.difference(seen.data, between) == ""
    left = hooks.egress(UPLINK, seen.data)
    ends = (NODE[family], OUTSIDE[family])
    wanted = report("unreachable", family, ends, quoted(protocol, outer(family)), 64)
    assert frames.difference(left.data, wanted) == ""


@families
@pytest.mark.parametrize("protocol", ("TCP", "UDP"))
def test_towards_a_local_pod(hooks: Hooks, world: PacketWorld, family: int, protocol: str) -> None:
    """Path MTU discovery of a pod's answers: the pod learns about the packet that it sent."""
    world.service(
        (EXTERNAL_IP, "198.51.100.7" if not family else "2001:db8::7", SERVED),
        local=[LOCAL_POD[family]],
        protocol=NUMBER[protocol],
        flags=EXTERNAL_LOCAL,
    )
    vip = "198.51.100.7" if not family else "2001:db8::7"
    dialled = outer(family).to(vip, SERVED)
    middle = dialled.to(LOCAL_POD[family], 8080)
    hooks.ingress(UPLINK, frames.frame(frames.packet(protocol, dialled), MAC[UPLINK]))
    answer = quoted(protocol, dialled.reply())
    sent = report("too-big", family, (GATEWAY[family], vip), answer, 64)
    seen = hooks.ingress(UPLINK, frames.frame(sent, MAC[UPLINK]))
    answer = quoted(protocol, middle.reply())
    wanted = report("too-big", family, (GATEWAY[family], LOCAL_POD[family]), answer, 64)
    assert frames.difference(seen.data, wanted) == ""
    assert seen.verdict is Verdict.UNSPEC


@families
def test_errors_about_nothing_we_know(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """An error whose packet belongs to no flow goes on as it is: it opens nothing."""
    open_direct(hooks, world, family, "UDP")
    strange = Ends(NODE[family], 33333, REMOTE_POD[family], 8080)
    for ends in (strange, outer(family), outer(family)._replace(source_port=1).reply()):
        sent = report("too-big", family, (NODE_B[family], NODE[family]), quoted("UDP", ends), 64)
        data = frames.frame(sent, MAC[UPLINK])
        for hook in (hooks.ingress, hooks.xdp, hooks.egress):
            assert hook(UPLINK, data) == (Verdict.UNSPEC, data)
    assert len(world.flows()) == 2


@families
def test_cut_errors(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """A quote that ends before the ports cannot be translated: passed on."""
    inner = open_direct(hooks, world, family, "UDP")
    for quote in range(8):
        sent = report(
            "too-big", family, (NODE_B[family], NODE[family]), quoted("UDP", inner), quote
        )
        data = frames.frame(sent, MAC[UPLINK])
        assert hooks.ingress(UPLINK, data) == (Verdict.UNSPEC, data)


@families
def test_echo_is_not_answered(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """An echo request to a VIP is left alone (H4)."""
    vip = ("10.96.0.1", "fd00:10:96::1")[family]
    world.service((CLUSTER_IP, vip, 80), remote=[REMOTE_POD[family]])
    head = frames.network(Ends(OUTSIDE[family], 0, vip, 0))
    data = frames.frame(head / (ICMPv6EchoRequest() if family else ICMP()), MAC[UPLINK])
    for hook in (hooks.ingress, hooks.xdp, hooks.egress):
        assert hook(UPLINK, data) == (Verdict.UNSPEC, data)
