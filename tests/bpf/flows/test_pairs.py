# SPDX-License-Identifier: Apache-2.0
"""The two entries of a flow appear and vanish together, whatever two processors do at once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Iterator

import pytest

from kubeproxy_bpf.dataplane.loader import Datapath
from tests.bpf.packet.node import NODE, REMOTE_POD, Node
from tests.bpf.packet.world import NODE_PORT
from tests.bpf.world import PORT

from .conftest import SNAT_PORTS
from .crowd import SYN, TCP, UDP, Crowd, Place, at_once
from .world import FlowWorld, Table

pytestmark = pytest.mark.root

SERVED = 30080
CLIENTS = len(SNAT_PORTS)
ROUNDS = 40


@pytest.fixture
def crowds(node: Node, datapath: Datapath, generators: Path) -> Iterator[tuple[Crowd, Crowd]]:
    with Crowd(node, datapath, generators) as one, Crowd(node, datapath, generators) as other:
        yield one, other


@pytest.fixture
def masqueraded(world: FlowWorld, protocol: int) -> Place:
    """A Service with one remote backend: as many flows as there are ports."""
    world.service((NODE_PORT, NODE[0], SERVED), remote=[REMOTE_POD[0]], protocol=protocol)
    return Place((NODE[0], SERVED), (REMOTE_POD[0], PORT), protocol)


protocols = pytest.mark.parametrize("protocol", (TCP, UDP), ids=("tcp", "udp"))


def contend(
    crowds: tuple[Crowd, Crowd], world: FlowWorld, place: Place, apart: int
) -> Iterator[Table]:
    """Two processors open flows at once, over those that are past their time.

    The clients of the second processor are numbered from ``apart`` on.
    """
    for _ in range(ROUNDS):
        starts = zip(crowds, (0, apart))
        at_once(*(partial(crowd.ask, place, CLIENTS, SYN, first) for crowd, first in starts))
        yield world.table()
        world.age()


@protocols
def test_clients_that_fight_for_ports(
    crowds: tuple[Crowd, Crowd], world: FlowWorld, masqueraded: Place
) -> None:
    """Flows that take over the ports of dead ones: two clients never share one."""
    for table in contend(crowds, world, masqueraded, CLIENTS):
        assert world.halves(table) == {}
        assert len(table) >= 2 * CLIENTS


@protocols
def test_one_client_on_two_processors(
    crowds: tuple[Crowd, Crowd], world: FlowWorld, masqueraded: Place
) -> None:
    """The same packets by two processors make one flow each."""
    for table in contend(crowds, world, masqueraded, 0):
        assert world.halves(table) == {}
        assert len(table) <= 2 * CLIENTS


def test_without_masquerading(crowds: tuple[Crowd, Crowd], world: FlowWorld) -> None:
    """The same where the client's own port is kept."""
    place = world.serve_clients()
    for apart in (0, CLIENTS // 2):
        for table in contend(crowds, world, place, apart):
            assert world.halves(table) == {}
