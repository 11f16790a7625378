# SPDX-License-Identifier: Apache-2.0
"""Devices whose packets begin with the IP header."""

from __future__ import annotations

import pytest

from . import frames
from .frames import IP, Ends, IPv6, Packet
from .hooks import Hooks, Verdict
from .node import LOCAL_POD_L3, MAC, NODE, OUTSIDE_L3, REMOTE_POD_L3, TUNNEL, UPLINK
from .scene import NUMBER, SERVED, both, families
from .world import EXTERNAL_LOCAL, NODE_PORT, PacketWorld

pytestmark = pytest.mark.root


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
