# SPDX-License-Identifier: Apache-2.0
"""Scratch."""
from __future__ import annotations

import socket

import pytest

from kubeproxy_bpf.dataplane.terminator import Terminator
from tests.bpf.world import UDP, World, mapped

from .clients import ask, error_of, opened
from .places import PORT, Places
from .test_terminator import B1, B2, VIP, namespaces, terminator  # noqa: F401

pytestmark = pytest.mark.root


@pytest.mark.parametrize("named", [False, True])
def test_a_connected_socket_that_names_its_peer(places: Places, world: World, terminator: Terminator, named: bool) -> None:
    """connect(VIP), then sendto(VIP): when the backend goes the socket is aborted, or answered."""
    index = world.serve(VIP, [B1], protocol=UDP)

    def scenario():
        with opened(VIP, socket.SOCK_DGRAM) as client:
            client.settimeout(1)
            client.connect((VIP, 80))
            first = ask(client, VIP)
            world.publish(index, [world.backend(B2, protocol=UDP)])
            world.remove_backend(B1, UDP)
            if named:  # before the terminator looks
                client.sendto(b"?", (VIP, 80))
            aborted = terminator.run([(mapped(B1), PORT)], namespaces(places)).sockets
            return first[0], aborted, error_of(client.recv, 100), client.getpeername() if not aborted else (VIP, 80)

    first, aborted, failed, peer = places.run(scenario)
    print(first, aborted, failed, peer)
    assert (aborted, failed) == (1, "ECONNABORTED")


def test_another_vip_of_the_same_backend(places: Places, world: World) -> None:
    """A connected socket that also sends to another VIP of the backend: each answer is its own."""
    world.serve(VIP, [B1], protocol=UDP)
    world.serve("172.30.0.9", [B1], protocol=UDP)

    def scenario():
        with opened(VIP, socket.SOCK_DGRAM) as client:
            client.connect((VIP, 80))
            ask(client, "172.30.0.9")
            client.send(b"?")
            return client.recvfrom(100)[1], client.getpeername()

    assert places.run(scenario) == ((VIP, 80), (VIP, 80))
