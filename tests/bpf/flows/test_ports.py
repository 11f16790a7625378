# SPDX-License-Identifier: Apache-2.0
"""Source ports of masqueraded flows: all of a range, for each backend, and what comes after."""

from __future__ import annotations

import time
from typing import NamedTuple

import pytest

from tests.bpf.packet.node import NODE, REMOTE_POD
from tests.bpf.packet.world import NODE_PORT
from tests.bpf.world import PORT

from .conftest import SNAT_PORTS
from .crowd import SYN, TCP, UDP, Crowd, Place
from .world import FlowWorld, Table

pytestmark = pytest.mark.root

SERVED, ALSO_SERVED = 30080, 30081
OTHER_POD = "10.244.2.11"
CLIENTS = range(len(SNAT_PORTS))
LATE = range(1000, 1100)
ATTEMPTS = 40
"""A client tries half of the range at a time, from a random port on."""

protocols = pytest.mark.parametrize("protocol", (TCP, UDP), ids=("tcp", "udp"))


class Served(NamedTuple):
    """A Service with one remote backend."""

    place: Place
    index: int


def serve(world: FlowWorld, protocol: int, port: int = SERVED, pod: str = REMOTE_POD[0]) -> Served:
    index = world.service((NODE_PORT, NODE[0], port), remote=[pod], protocol=protocol)
    return Served(Place((NODE[0], port), (pod, PORT), protocol), index)


def ports(world: FlowWorld, table: Table, place: Place, numbers: range) -> list[int]:
    """The ports under which the backend sees these clients."""
    found = (table.get(world.key(place, number)) for number in numbers)
    return [world.source_port(value) for value in found if value]


def fill(crowd: Crowd, world: FlowWorld, place: Place) -> None:
    """Connections that stand: what nobody answered gives its port away when none is left."""
    for _ in range(ATTEMPTS):
        crowd.ask(place, len(CLIENTS), SYN)
        world.settle()


@protocols
def test_all_ports_are_used(crowd: Crowd, world: FlowWorld, protocol: int) -> None:
    """Each once; and all of them again for another backend."""
    for place, _ in (
        serve(world, protocol),
        serve(world, protocol, ALSO_SERVED, OTHER_POD),
    ):
        fill(crowd, world, place)
        used = ports(world, world.table(), place, CLIENTS)
        assert sorted(used) == list(SNAT_PORTS)
    assert world.halves(world.table()) == {}


@protocols
def test_no_port_is_left(crowd: Crowd, world: FlowWorld, protocol: int) -> None:
    """New flows are refused and counted for their Service; those that are there stay."""
    place, service = serve(world, protocol)
    other, neighbour = serve(world, protocol, ALSO_SERVED, OTHER_POD)
    fill(crowd, world, place)
    flows, before, rejected = world.stats(service)
    table = world.table()

    crowd.ask(place, len(LATE), SYN, LATE.start)
    crowd.ask(other, len(LATE), SYN, LATE.start)

    assert world.stats(service) == (flows, before + len(LATE), rejected)
    assert world.stats(neighbour) == (len(LATE), 0, 0)
    later = world.table()
    assert ports(world, later, place, LATE) == []
    assert all(
        world.partner(key, later[key]) == world.partner(key, value) for key, value in table.items()
    )


@protocols
def test_unanswered_flows_give_their_ports_away(
    crowd: Crowd, world: FlowWorld, protocol: int
) -> None:
    """Nobody is refused because of clients that never came to speak."""
    place, service = serve(world, protocol)
    for _ in range(ATTEMPTS):
        crowd.ask(place, len(CLIENTS), SYN)
    time.sleep(1.3)  # for a second a flow may still be answered
    before = world.stats(service)[1]
    crowd.ask(place, len(LATE), SYN, LATE.start)

    table = world.table()
    assert len(set(ports(world, table, place, LATE))) == len(ports(world, table, place, LATE))
    assert world.stats(service)[1] == before
    assert world.halves(table) == {}


@protocols
def test_ports_come_back(crowd: Crowd, world: FlowWorld, protocol: int) -> None:
    """What flows past their time had is there for new ones."""
    place, _ = serve(world, protocol)
    fill(crowd, world, place)
    world.age()
    crowd.ask(place, len(LATE), SYN, LATE.start)

    table = world.table()
    assert len(set(ports(world, table, place, LATE))) == len(LATE)
    assert world.halves(table) == {}
