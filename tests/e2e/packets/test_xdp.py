# SPDX-License-Identifier: Apache-2.0
"""With XDP in front, native or generic, the outside client sees what it sees without.

Behind generic XDP on a veth TC does not recognise the copies of packets that the kernel makes, so
what XDP leaves to TC is tested behind native XDP alone.
"""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Iterator

import pytest

from tests.e2e.packets import bulk
from tests.e2e.packets.judge import judge, judge_all
from tests.e2e.packets.table import FROM_OUTSIDE, SILENT, Outcome, Place, Row, Via
from tests.e2e.packets.world import PRESERVE, World, standing
from tests.e2e.packets.xdp_peers import ready_for_native_xdp

pytestmark = [pytest.mark.root, pytest.mark.slow]

MODES = {"native": 1, "generic": 2}
"""As ``ip`` numbers them."""
SIZE = 10_000_000
DIGEST = bulk.digest(SIZE)
BY_TC = [
    row
    for row in FROM_OUTSIDE
    if row.expected is Outcome.REFUSED or row.service in ("hosts", "host-local")
]
"""Refusals and the way to the host."""
BY_XDP = [row for row in FROM_OUTSIDE if row not in (*BY_TC, *SILENT)]


@pytest.fixture(scope="module", params=MODES)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Strict nodes with a program at their uplinks, on a wire that is fit for XDP."""
    mode = request.param
    # A mark for FORWARD is TC's to set: the CNI's rules do here.
    flags = [PRESERVE, "--bpf-forward-accept=off", f"--bpf-xdp={mode}"]
    name = f"kpbt-p{os.getpid()}-{mode}"
    with standing(name, "routed", flags, strict=True, proxies=False) as made:
        made.stack.enter_context(ready_for_native_xdp(made.layout))
        made.start_proxies()
        yield made


@pytest.mark.parametrize("node", ["node1", "node2"])
def test_uplinks_have_the_program(node: str, world: World) -> None:
    """It stands at the nodes' uplinks, in the mode that was asked for, and nowhere else."""
    mode = world.flags[-1].partition("=")[2]
    links = json.loads(world.ip(node, "-j", "link"))
    assert {e["ifname"]: e["xdp"]["mode"] for e in links if "xdp" in e} == {"eth0": MODES[mode]}


@pytest.mark.parametrize("row", BY_XDP, ids=str)
def test_packets_from_outside_end_where_the_table_says(row: Row, world: World) -> None:
    """The same answers and peers as by TC alone."""
    judge(row, world)


def test_what_is_dropped_stays_silent(world: World) -> None:
    """Nothing comes back where the table says so."""
    judge_all([row for row in FROM_OUTSIDE if row in SILENT], world)


@pytest.mark.parametrize("world", ["native"], indirect=True)
@pytest.mark.parametrize("row", BY_TC, ids=str)
def test_what_is_left_to_tc_ends_where_the_table_says(row: Row, world: World) -> None:
    """The same refusals, and answers of hosts."""
    judge(row, world)


@pytest.mark.parametrize("service", ["itself", "remote"])
@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_data_passes(family: int, service: str, world: World) -> None:
    """Ten megabytes each way, to a backend behind XDP and to one to which XDP turns around."""
    target = (world.address(service, Via.NODE1, family), world.bulk_port(service, Via.NODE1))
    transfers = (partial(bulk.take, target, SIZE), partial(bulk.give, target, SIZE))
    assert {world.run(Place.CLIENT, transfer) for transfer in transfers} == {DIGEST}
