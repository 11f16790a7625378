# SPDX-License-Identifier: Apache-2.0
"""With generic XDP in front, the outside client is served as without."""

from __future__ import annotations

from typing import Iterator

import pytest

from tests.e2e.packets.judge import judge
from tests.e2e.packets.table import FROM_OUTSIDE, Outcome, Row
from tests.e2e.packets.world import World
from tests.e2e.packets.xdp_world import DIGEST, MODES, digests, with_xdp, xdp_modes

pytestmark = [pytest.mark.root, pytest.mark.slow]

SERVED = [
    row
    for row in FROM_OUTSIDE
    if row.expected is not Outcome.REFUSED and row.service not in ("hosts", "host-local")
]
"""What XDP does by itself. Refusals and the way to the host are TC's, which does not recognise the
copies of packets that the kernel makes for generic XDP on a veth."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with with_xdp("generic") as made:
        yield made


@pytest.mark.parametrize("node", ["node1", "node2"])
def test_uplinks_have_the_program(node: str, world: World) -> None:
    """It stands at the nodes' uplinks, in the mode that was asked for, and nowhere else."""
    assert xdp_modes(world, node) == {"eth0": MODES["generic"]}


@pytest.mark.parametrize("row", SERVED, ids=str)
def test_packets_from_outside_end_where_the_table_says(row: Row, world: World) -> None:
    """The same answers and peers as by TC alone."""
    judge(row, world)


@pytest.mark.parametrize("service", ["itself", "remote"])
@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_data_passes(family: int, service: str, world: World) -> None:
    """Ten megabytes each way, to a backend behind XDP and to one to which XDP turns around."""
    assert digests(world, service, family) == {DIGEST}
