# SPDX-License-Identifier: Apache-2.0
"""The two entries of a flow appear and vanish together, whatever two processors do at once."""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path
from typing import Iterator

import pytest

from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.dataplane.tracking import TIMEOUTS
from tests.bpf.packet.conftest import load, settings
from tests.bpf.packet.node import NODE, REMOTE_POD, Node
from tests.bpf.packet.world import NODE_PORT
from tests.bpf.world import PORT

from .crowd import SYN, TCP, UDP, Crowd, Place, at_once
from .world import FlowWorld

pytestmark = pytest.mark.root

SERVED = 30080
OVER_AT_ONCE = struct.pack(f"={TIMEOUTS}i", *[-1] * TIMEOUTS)
FEW_PORTS = 4
CLIENTS, ROUNDS = 16, 10_000


@pytest.fixture(scope="module")
def datapath(node: Node) -> Iterator[Datapath]:
    """Programs whose flows are past their time as soon as they are made; few ports for them."""
    wanted = settings(snat_count=FEW_PORTS, timeout=OVER_AT_ONCE)
    with load(node, wanted) as made:
        yield made


@pytest.fixture(scope="module")
def crowds(node: Node, datapath: Datapath, generators: Path) -> Iterator[tuple[Crowd, Crowd]]:
    with Crowd(node, datapath, generators) as one, Crowd(node, datapath, generators) as other:
        yield one, other


@pytest.mark.parametrize("protocol", (TCP, UDP), ids=("tcp", "udp"))
def test_clients_that_fight_for_ports(
    crowds: tuple[Crowd, Crowd], world: FlowWorld, protocol: int
) -> None:
    """Flows that take each other's port: never do two clients have the same."""
    world.service((NODE_PORT, NODE[0], SERVED), remote=[REMOTE_POD[0]], protocol=protocol)
    place = Place((NODE[0], SERVED), (REMOTE_POD[0], PORT), protocol)
    at_once(
        *(
            partial(crowd.ask, place, CLIENTS, SYN, first, ROUNDS)
            for crowd, first in zip(crowds, (0, CLIENTS // 2))
        )
    )
    assert world.halves(world.table()) == {}


def test_one_client_twice(crowds: tuple[Crowd, Crowd], world: FlowWorld) -> None:
    """The same flows, made and removed by both processors."""
    place = world.serve_clients()
    at_once(*(partial(crowd.ask, place, CLIENTS, SYN, 0, ROUNDS) for crowd in crowds))
    assert world.halves(world.table()) == {}
