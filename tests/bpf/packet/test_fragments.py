# SPDX-License-Identifier: Apache-2.0
"""Fragments: the first one tells the ports to those after it, at every hook that they pass."""

from __future__ import annotations

import pytest
from scapy.layers.inet import fragment
from scapy.layers.inet6 import IPv6ExtHdrFragment, fragment6

from . import frames
from .conversation import told_apart
from .frames import IP, Ends, IPv6, Packet
from .hooks import Hooks, Verdict
from .node import LOCAL_POD, MAC, NODE, POD, UPLINK
from .scene import SERVED, enter, families, outer, serve_local, serve_remote, untouched
from .world import NODE_PORT, PacketWorld

pytestmark = pytest.mark.root


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
    entered = enter(hooks, frames.packet("UDP", outer(family))).data
    middle = told_apart(middle, entered)
    first = hooks.egress(POD, entered)
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
    serve_remote(world, family=family)
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
