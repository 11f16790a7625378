# SPDX-License-Identifier: Apache-2.0
"""With XDP in front, generic and native, the outside client sees what it sees without."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Iterator

import pytest

from tests.e2e.packets import bulk
from tests.e2e.packets.judge import judge
from tests.e2e.packets.table import FROM_OUTSIDE, Place, Row, Via
from tests.e2e.packets.world import PRESERVE, World, standing
from tests.e2e.packets.xdp_peers import ready_for_native_xdp

pytestmark = [pytest.mark.root, pytest.mark.slow]

MODES = {"generic": 2, "native": 1}
"""As ``ip`` names them; 1 is the driver."""
SIZE = 10_000_000
DIGEST = bulk.digest(SIZE)


@pytest.fixture(scope="module", params=MODES)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    mode = request.param
    name, flags = f"kpbt-p{os.getpid()}-xdp", [PRESERVE, f"--bpf-xdp={mode}"]
    with standing(name, "routed", flags, strict=True, proxies=False) as made:
        made.stack.enter_context(ready_for_native_xdp(made.layout))
        made.start_proxies()
        yield made


def test_uplinks_have_the_program(world: World) -> None:
    """It stands at the nodes' uplinks, in the mode that was asked for, and nowhere else."""
    mode = world.flags[-1].rpartition("=")[2]
    for node in world.layout.node_names:
        links = json.loads(world.ip(node, "-j", "link"))
        modes = {link["ifname"]: link["xdp"]["mode"] for link in links if "xdp" in link}
        assert modes == {"eth0": MODES[mode]}


@pytest.mark.parametrize("row", FROM_OUTSIDE, ids=str)
def test_packets_from_outside_end_where_the_table_says(row: Row, world: World) -> None:
    """The same answers, peers and refusals as by TC alone."""
    judge(row, world)


@pytest.mark.parametrize("service", ["itself", "remote"])
@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_data_passes(family: int, service: str, world: World) -> None:
    """Ten megabytes each way, to a backend behind XDP and to one to which XDP turns around."""
    target = (world.address(service, Via.NODE1, family), world.bulk_port(service, Via.NODE1))
    assert world.run(Place.CLIENT, partial(bulk.take, target, SIZE)) == DIGEST
    assert world.run(Place.CLIENT, partial(bulk.give, target, SIZE)) == DIGEST
