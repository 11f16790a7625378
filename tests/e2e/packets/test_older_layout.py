# SPDX-License-Identifier: Apache-2.0
"""A proxy of another version takes over: what its maps look like is no matter to connections.

Maps of the same layout simply go on (``test_survival``). Lost are the counters alone.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Iterator

import pytest

from tests.e2e.packets import older
from tests.e2e.packets.asking import Told
from tests.e2e.packets.held import busy, connections, go_on
from tests.e2e.packets.table import ALL, Place, Via
from tests.e2e.packets.world import MASQUERADE, World, standing

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]

CHANGES = {
    "flows": {"flow": "__u32 ifindex;"},
    "all": {
        "flow": "__u32 ifindex;",
        "affinity": "__u32 record;",
        "backend": "__be16 port;",
        "record": "__u32 members;",
        "origin": "__be16 port;",
        "vip": "__u32 flags;",
    },
}
IN_BETWEEN = 8
"""Of thousands of new connections, how many may fall between the two copies of the table with
their handshake, in four exchanges."""
OUTSIDE = (Via.NODE1, Via.NODE2, Via.LOAD_BALANCER)


@pytest.fixture(scope="module", params=CHANGES)
def objects(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return older.build(tmp_path_factory.mktemp("older"), CHANGES[request.param])


@pytest.fixture
def world(objects: Path) -> Iterator[World]:
    """A world in which both proxies are of the older version."""
    name = f"kpbt-p{os.getpid()}-old"
    with standing(name, "routed", [MASQUERADE], proxies=False) as made:
        for node in made.layout.node_names:
            made.sandbox.start_proxy(node, older.command(objects), made.flags)
        made.await_proxies()
        yield made


def exchange_proxies(world: World, command: str = "") -> None:
    """Node after node gets another version; the current one if none is named."""
    for node in world.layout.node_names:
        world.end_proxy(node, signal.SIGTERM)
        world.start_proxy(node, command=command)


def test_clients_outlive_the_older_version_and_its_return(world: World, objects: Path) -> None:
    """Of clients outside and of pods, masqueraded and not, by packet and by socket, TCP and UDP.

    Session affinity goes on where it was, and nothing is left of the version before.
    """
    with (
        connections(world, "TCP", "all", OUTSIDE) as tcp,
        connections(world, "UDP", "all", OUTSIDE) as udp,
        connections(world, "TCP", "all", (Via.CLUSTER_IP,), place="shell-1") as tcp_of_pod,
        connections(world, "UDP", "all", (Via.CLUSTER_IP,), place="shell-1") as udp_of_pod,
        busy(world, failures=IN_BETWEEN),
    ):
        opened = [*tcp, *udp, *tcp_of_pod, *udp_of_pod]
        peers = [each.sock.getpeername() for each in opened]
        assert {each.told.name for each in tcp} == set(ALL)
        sticky = _sticky(world)
        for command in ("", older.command(objects)):
            pinned = _pinned(world)
            exchange_proxies(world, command)
            go_on(opened)
            assert peers == [each.sock.getpeername() for each in opened]
            for _ in range(8):
                assert _sticky(world) == sticky
            assert not pinned & _pinned(world)


def test_connections_outlive_their_service_and_the_older_version(world: World) -> None:
    """The address of the deleted Service stays as long as the flows that the new table takes over
    lead to it [A13]."""
    with connections(world, "TCP", "itself", (Via.LOAD_BALANCER,)) as opened:
        world.delete("itself")
        world.settle()
        go_on(opened)
        exchange_proxies(world)
        go_on(opened)


def _sticky(world: World) -> list[Told]:
    """Whom a client meets that is to stay with its backend."""
    targets = [
        world.target(protocol, "sticky", Via.NODE1, family)._replace(connected=protocol == "TCP")
        for protocol in ("TCP", "UDP")
        for family in (0, 1)
    ]
    return [world.ask(Place.CLIENT, target) for target in targets]


def _pinned(world: World) -> set[Path]:
    """Where the flow table of each node is."""
    found = set()
    for node in world.layout.node_names:
        (flows,) = world.sandbox.pin_path(node).glob("*/kpb_flows")
        found.add(flows)
    return found
