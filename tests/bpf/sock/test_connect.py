# SPDX-License-Identifier: Apache-2.0
"""connect(): who answers, and what the socket sees."""

from __future__ import annotations

import socket

import pytest

from . import clients
from .places import Places
from .world import UDP, World

pytestmark = pytest.mark.root

VIP, VIP6 = "172.30.0.1", "fd30::1"


@pytest.mark.parametrize(
    "vip, dialled, backend",
    [(VIP, VIP, "10.99.1.1"), (VIP6, VIP6, "fd99::1"), (VIP, f"::ffff:{VIP}", "10.99.1.1")],
)
@pytest.mark.parametrize("place", ["node", "pod"])
def test_tcp_reaches_a_backend(
    places: Places, world: World, vip: str, dialled: str, backend: str, place: str
) -> None:
    """A TCP socket that dials the VIP talks to a backend and sees the VIP as its peer."""
    world.serve(vip, [backend])
    answer, peer = places.run(clients.tcp, dialled, netns=getattr(places, place))
    assert (answer, peer) == (backend, dialled)
