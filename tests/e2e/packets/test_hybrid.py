# SPDX-License-Identifier: Apache-2.0
"""``--bpf-forwarding=hybrid``: remote backends answer TCP themselves, UDP by the first node."""

from __future__ import annotations

import os
from functools import partial
from typing import Iterator

import pytest

from tests.e2e.packets import bulk
from tests.e2e.packets.asking import TIMEOUT_S, Told, told_by
from tests.e2e.packets.judge import judge
from tests.e2e.packets.table import REMOTE, Place, Row, Source, Via
from tests.e2e.packets.world import PRESERVE, World, standing

pytestmark = [pytest.mark.root, pytest.mark.slow]

SIZE = 5_000_000
DIGEST = bulk.digest(SIZE)
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
VIRTUAL = pytest.mark.parametrize(
    "via", [Via.LOAD_BALANCER, Via.EXTERNAL_IP], ids=lambda via: str(via.value)
)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    flags = [PRESERVE, "--bpf-forwarding=hybrid"]
    with standing(f"kpbt-p{os.getpid()}-hyb", "routed", flags, strict=True) as made:
        yield made


@VIRTUAL
@FAMILIES
def test_only_datagrams_are_masqueraded(family: int, via: Via, world: World) -> None:
    """The same remote backends see the client itself by TCP, and the node that was asked by UDP."""
    tcp, udp = (world.target(protocol, "remote", via, family) for protocol in ("TCP", "UDP"))
    udp = udp._replace(connected=False)
    told = world.run(Place.CLIENT, partial(told_by, [tcp, udp], 60, TIMEOUT_S, REMOTE))
    assert told[tcp] == {Told(name, world.layout.client[family]) for name in REMOTE}
    seen = {world.named(Place.CLIENT, "node1", each) for each in told[udp]}
    assert seen == {Told(name, "node1") for name in REMOTE}


@FAMILIES
def test_data_passes(family: int, world: World) -> None:
    """All of it, each way, to a backend here and to those elsewhere."""
    for service in ("itself", "remote"):
        port = world.bulk_port(service, Via.LOAD_BALANCER)
        target = (world.address(service, Via.LOAD_BALANCER, family), port)
        for transfer in (bulk.take, bulk.give):
            assert world.run(Place.CLIENT, partial(transfer, target, SIZE)) == DIGEST


@pytest.mark.parametrize("node", [Via.NODE1, Via.NODE2], ids=lambda via: str(via.value))
def test_node_ports_are_masqueraded_in_both_protocols(node: Via, world: World) -> None:
    """No other node could answer with this node's address."""
    judge(Row("E4", Place.CLIENT, "remote", node, REMOTE, Source.LOCAL_KEPT), world)
