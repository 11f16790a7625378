# SPDX-License-Identifier: Apache-2.0
"""Connections through packets outlive what happens to other backends, to the agent, to programs."""

from __future__ import annotations

import os
import signal
from typing import Iterator

import pytest

from tests.e2e.packets.asking import Told, again
from tests.e2e.packets.held import busy, connections, go_on
from tests.e2e.packets.table import ALL, Place, Service, Via
from tests.e2e.packets.world import MASQUERADE, PRESERVE, World, standing

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(180)]

VIAS = (Via.NODE1, Via.NODE2, Via.LOAD_BALANCER)
NODE = "node1"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A world whose proxies end and start."""
    with standing(f"kpbt-p{os.getpid()}-life", "bridge", [PRESERVE], strict=True) as made:
        yield made


@pytest.fixture(autouse=True)
def restored(world: World) -> Iterator[None]:
    """All four backends behind the Service, before and after."""
    yield
    world.endpoints("all", ALL)


def test_an_endpoint_that_leaves_ends_no_connection(world: World) -> None:
    """Connections to others go on, and so do those to the one that left; new ones avoid it."""
    with connections(world, "TCP", "all", VIAS) as opened, busy(world):
        world.endpoints("all", ALL[:3])
        go_on(opened)
        world.endpoints("all", ALL)
        go_on(opened)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_the_agent_ends_and_starts(number: signal.Signals, world: World) -> None:
    """Without an agent all goes on, new connections too, and nobody notices that it comes back:
    streams and datagrams of clients stay with their backends."""
    with (
        connections(world, "TCP", "all", VIAS) as streams,
        connections(world, "UDP", "all", VIAS) as datagrams,
        busy(world),
    ):
        world.end_proxy(NODE, number)
        go_on(streams + datagrams)
        world.start_proxy(NODE)
        go_on(streams + datagrams)


def test_other_programs_take_the_place_of_the_first(world: World) -> None:
    """Programs with another configuration carry on the flows of those before them."""
    with connections(world, "TCP", "all", VIAS) as opened, busy(world):
        world.end_proxy(NODE, signal.SIGTERM)
        world.start_proxy(NODE, MASQUERADE)
        go_on(opened)
        with connections(world, "TCP", "itself", (Via.NODE1,)) as others:
            nodes = world.node_addresses[NODE]
            assert {each.told.peer in nodes for each in others} == {True}
            world.end_proxy(NODE, signal.SIGTERM)
            world.start_proxy(NODE)
            go_on(others)
        go_on(opened)


def test_datagrams_of_a_client_leave_a_backend_that_left(world: World) -> None:
    """The next datagram of the same socket goes to one of those that are left [J1, J5]."""
    with connections(world, "UDP", "all", VIAS, each=8) as opened:
        left = {"web-1", "web-2"}
        assert {each.told.name for each in opened} == set(ALL)
        world.endpoints("all", left)
        for each in opened:
            told = again(each.sock)
            assert told.name in left
            if each.told.name in left:
                assert told == each.told


def test_connections_outlive_their_service(world: World) -> None:
    """Established connections of a deleted Service go on; new ones are not served [A13]."""
    service = Service("itself", ("web-1",), {})
    target = world.target("TCP", "itself", Via.LOAD_BALANCER, 0)
    with connections(world, "TCP", "itself", (Via.NODE1, Via.LOAD_BALANCER)) as opened:
        world.delete("itself")
        world.settle()
        try:
            go_on(opened)
            assert world.ask(Place.CLIENT, target).name != "web-1"
        finally:
            world.put(service)
            world.settle()
        go_on(opened)
    assert world.ask(Place.CLIENT, target) == Told("web-1", world.layout.client.v4)
