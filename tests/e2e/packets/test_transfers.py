# SPDX-License-Identifier: Apache-2.0
"""Much data through every kind of address: no byte is lost, changed or moved, in any direction."""

from __future__ import annotations

from functools import partial

import pytest

from tests.e2e.packets import bulk
from tests.e2e.packets.table import Place, Via
from tests.e2e.packets.world import World

pytestmark = [pytest.mark.root, pytest.mark.slow]

SIZE = 100_000_000
DIGEST = bulk.digest(SIZE)
VIAS = (Via.NODE1, Via.LOAD_BALANCER, Via.EXTERNAL_IP, Via.CLUSTER_IP)


@pytest.mark.parametrize("service", ["itself", "remote"])
@pytest.mark.parametrize("via", VIAS, ids=lambda via: str(via.value))
def test_much_data_arrives_as_it_was_sent(via: Via, service: str, world: World) -> None:
    """A hundred megabytes each way, over IPv4 there and over IPv6 back."""
    port = world.bulk_port(service, via)
    v4, v6 = (world.address(service, via, family) for family in (0, 1))
    assert world.run(Place.CLIENT, partial(bulk.take, (v4, port), SIZE)) == DIGEST
    assert world.run(Place.CLIENT, partial(bulk.give, (v6, port), SIZE)) == DIGEST


@pytest.mark.parametrize("place", [Place.HOST, Place.POD], ids=lambda place: str(place.value))
@pytest.mark.parametrize("service", ["itself", "remote"])
def test_much_data_of_clients_without_hooks(place: Place, service: str, world: World) -> None:
    """The same between backends and clients of the cluster that no hook sees."""
    port = world.bulk_port(service, Via.CLUSTER_IP)
    v4, v6 = (world.address(service, Via.CLUSTER_IP, family) for family in (0, 1))
    assert world.run(place, partial(bulk.take, (v6, port), SIZE)) == DIGEST
    assert world.run(place, partial(bulk.give, (v4, port), SIZE)) == DIGEST
