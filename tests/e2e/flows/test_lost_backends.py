# SPDX-License-Identifier: Apache-2.0
"""A backend goes away: what the sockets that spoke to it notice."""

from __future__ import annotations

import errno
import socket

import pytest

from tests.e2e.flows.conftest import PORT, TCP, UDP, Cluster
from tests.e2e.flows.ways import Seen, Way, exchange, ways_of

pytestmark = pytest.mark.root

PLACES = ["shell-1", "node1"]


def _next(sock: socket.socket) -> str:
    """What a connected socket learns from one more exchange."""
    try:
        sock.sendall(b"name\n")
        return sock.recv(4096).decode().strip()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("place", PLACES)
def test_connected_udp_socket_is_aborted(cluster: Cluster, place: str, family: int) -> None:
    """Sockets connected to the removed backend fail, in pods and on the host; others do not."""
    vips = cluster.service("web", ["web-1"])
    vip = vips[family]
    lost = [(cluster.open(place, way, vip), way) for way in ways_of("UDP", vip) if way.connected]
    for sock, way in lost:
        assert exchange(sock, way, vip, PORT).answer == "web-1"
    direct = cluster.layout.addresses("web-1")[family]
    bystander = cluster.open(place, UDP, direct)
    assert exchange(bystander, UDP, direct, 8080).answer == "web-1"
    cluster.endpoints("web", ["web-1", "web-2"])
    assert [_next(sock) for sock, _ in lost] == ["web-1"] * len(lost)
    cluster.endpoints("web", ["web-2"])
    for sock, _ in lost:
        with pytest.raises(ConnectionAbortedError):
            sock.recv(4096)
        # The peer is forgotten: a program that sends before it listens learns it as well.
        assert _next(sock) == "EDESTADDRREQ"
    assert _next(bystander) == "web-1"


@pytest.mark.parametrize("mapped", [False, True], ids=["plain", "mapped"])
@pytest.mark.parametrize("place", PLACES)
def test_unconnected_udp_socket_moves_on(cluster: Cluster, place: str, mapped: bool) -> None:
    """It stays with its backend while there is one, and chooses anew without an error."""
    way = Way("UDP", connected=False, mapped=mapped)
    vips = cluster.service("web", ["web-1"])
    vip = vips[0]
    sock = cluster.open(place, way, vip)
    assert exchange(sock, way, vip, PORT) == Seen("web-1", (vip, PORT))
    cluster.endpoints("web", ["web-1", "web-2", "web-4"])
    assert {exchange(sock, way, vip, PORT).answer for _ in range(20)} == {"web-1"}
    cluster.endpoints("web", ["web-2"])
    assert exchange(sock, way, vip, PORT) == Seen("web-2", (vip, PORT))


@pytest.mark.parametrize("place", PLACES)
def test_tcp_connection_lives_on(cluster: Cluster, place: str) -> None:
    """A connection to a removed backend goes on, also without the Service; new ones do not."""
    vips = cluster.service("web", ["web-1"])
    vip = vips[0]
    sock = cluster.open(place, TCP, vip)
    assert exchange(sock, TCP, vip, PORT) == Seen("web-1", (vip, PORT))
    cluster.endpoints("web", ["web-2"])
    assert cluster.answers(place, TCP, vip) == {"web-2"}
    assert _next(sock) == "web-1"
    cluster.endpoints("web", [])
    assert cluster.answers(place, TCP, vip) == {"ECONNREFUSED"}
    assert _next(sock) == "web-1"
    assert sock.getpeername()[:2] == (vip, PORT)
