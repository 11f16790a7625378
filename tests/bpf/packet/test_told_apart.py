# SPDX-License-Identifier: Apache-2.0
"""Packets that look like those of a flow and are none of it, and what keeps them apart."""

from __future__ import annotations

import socket

import pytest

from . import frames
from .conftest import MIDDLE
from .conversation import Conversation
from .frames import Ends
from .hooks import Hooks, Seen, Verdict
from .node import LOCAL_POD, MAC, NODE, OUTSIDE, POD, UPLINK
from .world import NODE_PORT, PacketWorld

pytestmark = pytest.mark.root

NUMBER = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP}
SERVED = 30080
families = pytest.mark.parametrize("family", (0, 1), ids=("ipv4", "ipv6"))


@families
def test_a_datagram_to_the_backend_itself(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """Nobody masquerades it, nor names its answer, though its port was used through a VIP."""
    world.service((NODE_PORT, NODE[family], SERVED), local=[LOCAL_POD[family]], protocol=17)
    outer = Ends(OUTSIDE[family], 40000, NODE[family], SERVED)
    backend = (LOCAL_POD[family], 8080)
    talk = Conversation(hooks, "UDP", outer, backend, UPLINK, POD, NODE[family])
    talk.ask()
    talk.answer()
    itself = outer.to(*backend)
    for ends, came_by, leaves_by in ((itself, UPLINK, POD), (itself.reply(), POD, UPLINK)):
        sent = frames.frame(frames.packet("UDP", ends), MAC[came_by])
        seen = hooks.ingress(came_by, sent)
        assert seen == Seen(Verdict.UNSPEC, sent)
        assert hooks.egress(leaves_by, sent) == seen


@families
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_another_nodes_ports_are_no_middle_ones(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """Who is a client here may be a node, whose own clients' packets come from masquerading ports
    to the same backend: nothing that needs another port gets one of those."""
    for port in (SERVED, SERVED + 1):
        world.service(
            (NODE_PORT, NODE[family], port),
            local=[LOCAL_POD[family]],
            protocol=NUMBER[protocol],
        )
    middles = []
    for port in (SERVED, SERVED + 1):
        outer = Ends(OUTSIDE[family], 40000, NODE[family], port)
        seen = hooks.ingress(UPLINK, frames.frame(frames.packet(protocol, outer), MAC[UPLINK]))
        middles.append(frames.ends_of(frames.read(seen.data)))
    assert {ends[::2] for ends in middles} == {(OUTSIDE[family], LOCAL_POD[family])}
    ports = [ends.source_port for ends in middles]
    assert len({*ports}) == 2 and ports[1] in MIDDLE
    assert ports[0] == 40000 if protocol == "TCP" else ports[0] in MIDDLE
