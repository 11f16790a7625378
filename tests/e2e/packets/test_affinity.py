# SPDX-License-Identifier: Apache-2.0
"""Session affinity of packets: one client, one backend, by whatever address it comes."""

from __future__ import annotations

from functools import partial

import pytest

from tests.e2e.packets.asking import TIMEOUT_S, told_by
from tests.e2e.packets.table import Place, Via
from tests.e2e.packets.world import World

pytestmark = pytest.mark.root

VIAS = (Via.NODE1, Via.LOAD_BALANCER, Via.EXTERNAL_IP, Via.CLUSTER_IP)
PLACES = (Place.CLIENT, Place.HOST, Place.POD)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: str(place.value))
@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_one_client_meets_one_backend(
    protocol: str, family: int, place: Place, world: World
) -> None:
    """All ways into a port of a Service share what they know of a client [G2]."""
    targets = [
        world.target(protocol, "sticky", via, family)._replace(connected=protocol == "TCP")
        for via in VIAS
    ]
    told = world.run(place, partial(told_by, targets[:1], 1, TIMEOUT_S))
    told.update(world.run(place, partial(told_by, targets, 20, TIMEOUT_S)))
    names = {each.name for seen in told.values() for each in seen}
    assert len(names) == 1 and names < {"web-1", "web-2", "web-3", "web-4"}
