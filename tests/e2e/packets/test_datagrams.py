# SPDX-License-Identifier: Apache-2.0
"""Datagrams that travel in fragments, and a host's own datagrams beside those of Services."""

from __future__ import annotations

from functools import partial

import pytest

from tests.e2e.packets.asking import Target, exchange, made
from tests.e2e.packets.conftest import WORLDS, title
from tests.e2e.packets.table import Place, Via
from tests.e2e.packets.world import World

pytestmark = pytest.mark.root

WITHOUT_OVERLAY = [kind for kind in WORLDS if kind[0] != "vxlan"]
SIZE = 8000
TIMES = 20
LESSONS = (0, 4)
"""IPv6 routers cut nothing: once they tell each sender, client or backend, what is too large."""

FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])


def _lost(target: Target, size: int) -> int:
    """How many datagrams of one size do not come back as they were, each from a new socket."""
    lost = 0
    for _ in range(TIMES):
        with made(target, timeout_s=1.0) as sock:
            request = b"echo ".ljust(size, b"x")
            sock.sendto(request, (target.address, target.port))
            try:
                answer, sender = sock.recvfrom(65536)
            except TimeoutError:
                lost += 1
                continue
            assert sender[:2] == (target.address, target.port)
            assert answer == request
    return lost


@pytest.mark.parametrize(
    ("place", "via"),
    [
        (Place.CLIENT, Via.NODE1),
        (Place.CLIENT, Via.LOAD_BALANCER),
        (Place.CLIENT, Via.CLUSTER_IP),
        (Place.POD, Via.CLUSTER_IP),
    ],
    ids=lambda each: str(each.value),
)
@pytest.mark.parametrize("service", ["itself", "remote", "all", "hosts"])
@FAMILIES
def test_large_datagrams_arrive_whole(
    family: int, service: str, place: Place, via: Via, world: World
) -> None:
    """Eight kilobytes there and back, to local and remote backends."""
    target = world.target("UDP", service, via, family)
    assert world.run(place, partial(_lost, target, SIZE)) <= LESSONS[family]


@pytest.mark.parametrize("world", WITHOUT_OVERLAY, indirect=True, ids=title)
@pytest.mark.parametrize("service", ["itself", "remote", "all", "hosts"])
@FAMILIES
def test_large_datagrams_of_the_host_arrive_whole(family: int, service: str, world: World) -> None:
    """The host's own by packet, where the way to the pods carries no less than the uplink."""
    target = world.target("UDP", service, Via.CLUSTER_IP, family)
    assert world.run(Place.HOST, partial(_lost, target, SIZE)) <= LESSONS[family]


@FAMILIES
def test_host_socket_on_somebodys_node_port_gets_its_answers(family: int, world: World) -> None:
    """A datagram that answers a socket of the host is no client of the node port of that number."""
    port = world.port("all", Via.NODE1)
    server = Target("UDP", world.layout.addresses("web-2")[family], 8080, connected=False)

    def dial() -> list[str]:
        # A wildcard socket and one that is connected find their answers by different look-ups.
        names = []
        for connected in (False, True):
            target = server._replace(connected=connected)
            with made(target, source_port=port) as sock:
                names += [exchange(sock, target).name for _ in range(3)]
        return names

    assert world.run(Place.HOST, dial) == ["web-2"] * 6


@FAMILIES
def test_datagram_of_a_new_client_reaches_the_node_port_meanwhile(
    family: int, world: World
) -> None:
    """While a socket of the host holds the number, others still reach the Service through it."""
    port = world.port("remote", Via.NODE1)
    elsewhere = Target("UDP", world.layout.addresses("web-2")[family], 8080, connected=True)
    target = world.target("UDP", "remote", Via.NODE1, family)._replace(connected=False)

    def dial() -> str:
        with made(elsewhere, source_port=port) as sock:
            exchange(sock, elsewhere)
            answer: str = world.run(Place.CLIENT, partial(_name, target))
            assert exchange(sock, elsewhere).name == "web-2"
            return answer

    assert world.run(Place.HOST, dial) in ("web-2", "web-4")


def _name(target: Target) -> str:
    with made(target) as sock:
        return exchange(sock, target).name
