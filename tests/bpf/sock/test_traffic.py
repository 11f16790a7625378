# SPDX-License-Identifier: Apache-2.0
"""Connections of sockets, counted for their Service where somebody asked for it."""

from __future__ import annotations

import socket

import pytest

from kubeproxy_bpf.dataplane.settings import ConfigFlags
from kubeproxy_bpf.plan.records import RecordFlags
from tests.bpf.world import TCP, UDP, World

from . import clients
from .clients import ask, error_of, opened
from .places import PORT, Places

pytestmark = pytest.mark.root

VIP, VIP6, OTHER = "172.30.0.1", "fd30::1", "172.30.0.2"
B1, B2 = "10.99.1.1", "10.99.1.2"


@pytest.fixture(scope="module")
def config_flags() -> int:
    return ConfigFlags.TCP_ORIGIN | ConfigFlags.SERVICE_TRAFFIC


@pytest.mark.parametrize("vip, backend", [(VIP, B1), (VIP6, "fd99::1")])
@pytest.mark.parametrize("place", ["node", "pod"])
def test_tcp(places: Places, world: World, vip: str, backend: str, place: str) -> None:
    """Each connection counts once, whatever passes; packets are counted where they are seen."""
    index = world.serve(vip, [backend])
    for _ in range(3):
        places.run(clients.tcp, vip, netns=getattr(places, place))
    assert world.traffic(index) == (3, 0, 0)


def test_every_service_has_its_own(places: Places, world: World) -> None:
    """Though they share a backend; what goes to the backend itself is nobody's."""
    index, other = world.serve(VIP, [B1]), world.serve(OTHER, [B1])
    for address, port in ((VIP, 80), (OTHER, 80), (OTHER, 80), (B1, PORT)):
        places.run(clients.tcp, address, port)
    assert (1, 2) == (world.traffic(index)[0], world.traffic(other)[0])


def test_connected_udp(places: Places, world: World) -> None:
    """A connected socket counts once, however much it sends; also when it connects again."""
    index = world.serve(VIP, [B1], protocol=UDP)

    def scenario() -> None:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            for _ in range(2):
                client.connect((VIP, 80))
                for _ in range(3):
                    client.send(b"?")
                    client.recv(100)

    places.run(scenario)
    assert world.traffic(index) == (1, 0, 0)


def test_unconnected_udp(places: Places, world: World) -> None:
    """A socket counts once for each address that it speaks to, however many datagrams it sends."""
    index = world.serve(VIP, [B1, B2], protocol=UDP)
    other = world.serve(OTHER, [B1, B2], protocol=UDP)

    def scenario() -> None:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            for _ in range(5):
                ask(client, VIP)
                ask(client, OTHER)

    places.run(scenario)
    places.run(clients.sendto, VIP)
    assert (2, 1) == (world.traffic(index)[0], world.traffic(other)[0])


def test_a_lost_backend_makes_a_connection_more(places: Places, world: World) -> None:
    """A datagram socket that is led elsewhere is one that the new backend gets."""
    index = world.serve(VIP, [B1], protocol=UDP)

    def scenario() -> None:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            ask(client, VIP)
            world.publish(index, [world.backend(B2, protocol=UDP)])
            world.remove_backend(B1, UDP)
            for _ in range(3):
                ask(client, VIP)

    places.run(scenario)
    assert world.traffic(index)[0] == 2


def test_clients_that_stay_count_as_others(places: Places, world: World) -> None:
    """Session affinity leads each connection to the same backend: it is one all the same."""
    index = world.serve(VIP, [B1, B2], affinity_s=100)
    for _ in range(3):
        places.run(clients.tcp, VIP)
    assert world.count("AFFINITY_HIT") == 2
    assert world.traffic(index)[0] == 3


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_what_is_refused_is_no_connection(places: Places, world: World, protocol: int) -> None:
    """A Service without endpoints has no connections."""
    index = world.serve(VIP, [], protocol=protocol, flags=RecordFlags(0))
    dial = clients.tcp if protocol == TCP else clients.udp
    assert places.run(error_of, dial, VIP) == "ECONNREFUSED"
    assert world.traffic(index) == (0, 0, 0)
