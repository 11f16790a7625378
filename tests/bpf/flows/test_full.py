# SPDX-License-Identifier: Apache-2.0
"""A table that is full of connections: they go on, new ones wait for room."""

from __future__ import annotations

import pytest

from tests.bpf.packet import frames
from tests.bpf.packet.hooks import Hooks, Verdict
from tests.bpf.packet.node import MAC, UPLINK

from .conftest import ENTRIES
from .crowd import ACK, FIN, SYN, TCP, UDP, Crowd, ends
from .test_scan import SETTLED, still_served
from .world import FlowWorld

pytestmark = pytest.mark.root

ALL = range(ENTRIES // 2)
NEW = range(100_000, 100_500)
ATTEMPTS = 20
"""SYNs of a client that does not give up."""


@pytest.mark.parametrize("protocol", (TCP, UDP), ids=("tcp", "udp"))
def test_full_of_connections(crowd: Crowd, world: FlowWorld, hooks: Hooks, protocol: int) -> None:
    """New flows are dropped and counted; the packets of all others pass."""
    place = world.serve_clients(protocol)
    crowd.establish(place, len(ALL))
    assert world.counted() == {"FLOW_NEW": len(ALL)}

    crowd.ask(place, len(NEW), SYN, NEW.start)
    kind = {TCP: "TCP", UDP: "UDP"}[protocol]
    sent = frames.packet(kind, ends(place, NEW.start))
    seen = hooks.ingress(UPLINK, frames.frame(sent, MAC[UPLINK]))

    assert seen.verdict is Verdict.DROP
    assert world.counted() == {"FLOW_NEW": len(ALL), "FLOWS_FULL": len(NEW) + 1}
    table = world.table()
    assert world.states(table, place, ALL) == {SETTLED[protocol]}
    assert world.states(table, place, NEW) == {"NONE"}
    assert still_served(crowd, world, place, ALL)


def test_when_connections_end(crowd: Crowd, world: FlowWorld) -> None:
    """What closed makes room for new connections, wherever it stands among those that go on."""
    place = world.serve_clients()
    crowd.establish(place, len(ALL))
    closed = range(ALL.stop // 2, ALL.stop // 2 + len(NEW))
    crowd.ask(place, len(closed), FIN | ACK, closed.start)
    crowd.answer(place, len(closed), FIN | ACK, closed.start)
    world.age(but=["TCP_ESTABLISHED"])

    for _ in range(ATTEMPTS):
        crowd.ask(place, len(NEW), SYN, NEW.start)
    crowd.answer(place, len(NEW), SYN | ACK, NEW.start)
    crowd.ask(place, len(NEW), ACK, NEW.start)

    table = world.table()
    assert world.states(table, place, NEW) == {"TCP_ESTABLISHED"}
    assert world.states(table, place, closed) == {"NONE"}
    assert world.states(table, place, range(closed.start)) == {"TCP_ESTABLISHED"}
    assert world.states(table, place, range(closed.stop, ALL.stop)) == {"TCP_ESTABLISHED"}
    assert world.halves(table) == {}
