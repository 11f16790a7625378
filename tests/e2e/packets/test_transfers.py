# SPDX-License-Identifier: Apache-2.0
"""Much data through every kind of address: no byte is lost, changed or moved, in any direction."""

from __future__ import annotations

from functools import partial

import pytest

from tests.e2e.packets import bulk
from tests.e2e.packets.table import Place, Via
from tests.e2e.packets.world import World

pytestmark = [pytest.mark.root, pytest.mark.slow]

MUCH, LESS = 100_000_000, 5_000_000
DIGESTS = {size: bulk.digest(size) for size in (MUCH, LESS)}
VIAS = (Via.NODE1, Via.LOAD_BALANCER, Via.EXTERNAL_IP, Via.CLUSTER_IP)


def size_in(world: World) -> int:
    """All of it in one world; the others show that the way is the same there."""
    return MUCH if world.strict and world.layout.topology == "routed" else LESS


@pytest.mark.parametrize("service", ["itself", "remote"])
@pytest.mark.parametrize("via", VIAS, ids=lambda via: str(via.value))
def test_much_data_arrives_as_it_was_sent(via: Via, service: str, world: World) -> None:
    """A hundred megabytes fetched over IPv4, and as many given over IPv6."""
    size = size_in(world)
    port = world.bulk_port(service, via)
    v4, v6 = (world.address(service, via, family) for family in (0, 1))
    assert world.run(Place.CLIENT, partial(bulk.take, (v4, port), size)) == DIGESTS[size]
    assert world.run(Place.CLIENT, partial(bulk.give, (v6, port), size)) == DIGESTS[size]


@pytest.mark.parametrize("place", [Place.HOST, Place.POD], ids=lambda place: str(place.value))
@pytest.mark.parametrize("service", ["itself", "remote"])
def test_much_data_of_clients_without_hooks(place: Place, service: str, world: World) -> None:
    """The same between backends and clients of the cluster that no hook sees."""
    size = size_in(world)
    port = world.bulk_port(service, Via.CLUSTER_IP)
    v4, v6 = (world.address(service, Via.CLUSTER_IP, family) for family in (0, 1))
    assert world.run(place, partial(bulk.take, (v6, port), size)) == DIGESTS[size]
    assert world.run(place, partial(bulk.give, (v4, port), size)) == DIGESTS[size]
