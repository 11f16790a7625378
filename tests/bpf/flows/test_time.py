# SPDX-License-Identifier: Apache-2.0
"""Flows and the clock: nothing but the time that passes ends them here."""

from __future__ import annotations

from time import sleep

import pytest

from tests.bpf.packet.conversation import Conversation
from tests.bpf.packet.frames import Ends
from tests.bpf.packet.hooks import Hooks
from tests.bpf.packet.node import LOCAL_POD, NODE, OUTSIDE, POD, UPLINK
from tests.bpf.packet.world import NODE_PORT

from .conftest import BRIEF_S, Brief
from .crowd import ACK, FIN, RST, SYN, UDP
from .world import FlowWorld

pytestmark = pytest.mark.root

STEPS = 4
"""Packets within the time of a flow."""


def test_each_state_ends(brief: Brief) -> None:
    """When its time is up a flow is gone as a whole with the next packet, from either side."""
    crowd, world = brief
    place = world.serve_clients()
    connected = (crowd.answer, SYN | ACK), (crowd.ask, ACK)
    lives = {
        "TCP_NEW": (),
        "TCP_REPLIED": ((crowd.answer, SYN | ACK),),
        "TCP_CLOSING": (*connected, (crowd.ask, FIN | ACK)),
        "TCP_TIME_WAIT": (*connected, (crowd.ask, FIN | ACK), (crowd.answer, FIN | ACK)),
        "TCP_CLOSED": ((crowd.answer, RST | ACK),),
    }
    for number, (state, packets) in enumerate(lives.items()):
        crowd.ask(place, 2, SYN, 2 * number)
        for send, flags in packets:
            send(place, 2, flags, 2 * number)
        assert world.states(world.table(), place, range(2 * number, 2 * number + 2)) == {state}
    sleep(BRIEF_S)
    assert len(world.table()) == 4 * len(lives)

    for number in range(len(lives)):
        crowd.ask(place, 1, ACK, 2 * number)
        crowd.answer(place, 1, ACK, 2 * number + 1)

    assert world.table() == {}


@pytest.mark.parametrize("side", ("ask", "answer"))
def test_either_side_keeps_a_flow(brief: Brief, side: str) -> None:
    """As long as one side speaks, the other one may be silent."""
    crowd, world = brief
    place = world.serve_clients(UDP)
    crowd.establish(place, 1)
    crowd.establish(place, 1, first=1)
    for _ in range(2 * STEPS):
        sleep(BRIEF_S / STEPS)
        getattr(crowd, side)(place, 1)
    crowd.answer(place, 1)
    crowd.answer(place, 1, first=1)

    table = world.table()
    assert world.states(table, place, range(1)) == {"UDP_REPLIED"}
    assert world.states(table, place, range(1, 2)) == {"NONE"}
    assert len(table) == 2
    assert world.counted() == {"FLOW_NEW": 2}


ENDS = {
    "both closed": (("ask", "FA"), ("answer", "FA"), ("ask", "A")),
    "the client closed": (("ask", "FA"),),
    "the client reset": (("ask", "R"),),
    "the backend reset": (("answer", "RA"),),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_port_is_used_again(hooks: Hooks, world: FlowWorld, end: str) -> None:
    """A SYN on what is over opens a new flow, masqueraded as the first one was."""
    world.service((NODE_PORT, NODE[0], 30080), local=[LOCAL_POD[0]])
    outer = Ends(OUTSIDE[0], 40000, NODE[0], 30080)
    for _ in range(3):
        talk = Conversation(hooks, "TCP", outer, (LOCAL_POD[0], 8080), UPLINK, POD, NODE[0])
        talk.ask()
        talk.answer()
        talk.ask(flags="A")
        for side, flags in ENDS[end]:
            getattr(talk, side)(flags=flags)
    assert world.halves(world.table()) == {}
    assert world.count("FLOW_NEW") == 3
