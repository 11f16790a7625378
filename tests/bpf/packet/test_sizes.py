# SPDX-License-Identifier: Apache-2.0
"""Packets that are larger than the way to their backend takes."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import ICMPv6PacketTooBig

from . import frames
from .frames import Ends, Raw
from .hooks import Hooks, Seen, Verdict
from .node import MAC, NARROW_MTU, NARROW_POD, NODE, OUTSIDE, UPLINK
from .world import NODE_PORT, PacketWorld

pytestmark = pytest.mark.root

SERVED = 30080
families = pytest.mark.parametrize("family", (0, 1), ids=("ipv4", "ipv6"))


def client(family: int) -> Ends:
    return Ends(OUTSIDE[family], 1000, NODE[family], SERVED)


def send(hooks: Hooks, outer: Ends, protocol: str = "TCP", **fields: object) -> Seen:
    content = frames.packet(protocol, outer, **fields)
    return hooks.ingress(UPLINK, frames.frame(content, MAC[UPLINK]))


@families
def test_too_big(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """What does not fit the way to the backend is answered with what does (path MTU discovery)."""
    world.service((NODE_PORT, NODE[family], SERVED), remote=[NARROW_POD[family]])
    outer = client(family)
    send(hooks, outer)
    extra = {} if family else {"flags": "DF"}
    fits = NARROW_MTU - (60 if family else 40)
    for size in (fits, fits + 1, 1440):
        transport = frames.transport("TCP", outer, payload=bytes(size), flags="A")
        content = frames.network(outer, **extra) / transport
        frame = frames.frame(content, MAC[UPLINK])
        early = hooks.xdp(UPLINK, frame)
        assert early.verdict is Verdict.TX if size == fits else early == (Verdict.UNSPEC, frame)
        seen = hooks.ingress(UPLINK, frame)
        assert seen.verdict is Verdict.REDIRECT
        back = outer.reply()
        head = frames.network(back, **({} if family else {"id": 0, "flags": "DF"}))
        error = (
            ICMPv6PacketTooBig(mtu=NARROW_MTU)
            if family
            else ICMP(type=3, code=4, nexthopmtu=NARROW_MTU)
        )
        quote = frames.raw(content)[: (40 if family else 20) + 64]
        answered = frames.difference(seen.data, head / error / Raw(quote)) == ""
        assert answered is (size > fits)
    assert world.count("TOO_BIG") == 2


def test_the_stack_makes_fragments(hooks: Hooks, world: PacketWorld) -> None:
    """A sender that allows fragments gets them: the packet goes through the stack for once."""
    world.service((NODE_PORT, NODE[0], SERVED), remote=[NARROW_POD[0]], protocol=17)
    outer = client(0)
    inner = frames.ends_of(frames.read(send(hooks, outer, "UDP").data))
    seen = send(hooks, outer, "UDP", payload=bytes(1400))
    middle = outer.to(NARROW_POD[0], 8080)
    assert seen.verdict is Verdict.UNSPEC
    assert frames.difference(seen.data, frames.packet("UDP", middle, payload=bytes(1400))) == ""
    left = hooks.egress(UPLINK, seen.data)
    assert left.verdict is Verdict.UNSPEC
    assert frames.difference(left.data, frames.packet("UDP", inner, payload=bytes(1400))) == ""
