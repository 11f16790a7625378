# SPDX-License-Identifier: Apache-2.0
"""From pins to none and back, restarts, other sizes, the end: whose state is taken, what stays."""

from __future__ import annotations

import itertools
import signal
import time

import pytest

from kubeproxy_bpf.libbpf import BpfMap, LibbpfError, Link
from tests.e2e.packets.held import busy, connections, go_on
from tests.e2e.packets.table import Via
from tests.e2e.packets.world import World
from tests.e2e.pins.node import PINLESS, PINNED, ContainedNode, Found, until

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

VIAS = (Via.NODE1, Via.LOAD_BALANCER)


def test_the_other_mode_goes_on_with_the_same_state(node: ContainedNode, world: World) -> None:
    """From pins to none and back: same maps, same flows, and nothing is attached twice."""
    node.start(PINNED)
    world.settle()
    first = node.found()
    with connections(world, "TCP", "all", VIAS) as opened, busy(world):
        for mode in (PINLESS, PINNED, PINLESS):
            node.end(signal.SIGKILL)
            node.start(mode)
            world.settle()
            _attached_once(node.found(), first, mode)
            go_on(opened)


def _attached_once(found: Found, first: Found, mode: str) -> None:
    """As many attachments as at first, all of them of one kind, over the same maps."""
    count = len(first.links)
    assert found.maps == first.maps
    assert (len(found.links), found.unlinked) == ((count, 0) if mode == PINNED else (0, count))
    assert len(found.programs) == len(first.programs)
    # Only what pins that nobody sees keep may be left of links, and it goes with these pins.
    assert found.dead in ((0,) if mode == PINNED else (0, count))


def test_pins_that_are_seen_but_not_wanted_go(node: ContainedNode, world: World) -> None:
    """With --bpf-pins=off nothing is left of the pins, and the state is kept."""
    node.start(PINNED)
    world.settle()
    first = node.found()
    with connections(world, "TCP", "all", VIAS) as opened, busy(world):
        node.end(signal.SIGTERM)
        node.start(PINNED, "--bpf-pins=off")
        world.settle()
        _attached_once(node.found(), first, PINLESS)
        go_on(opened)
    assert not node.pins.exists()


@pytest.mark.parametrize("mode", [PINNED, PINLESS])
def test_restarts_leave_nothing_behind(mode: str, node: ContainedNode, world: World) -> None:
    """After some restarts there are as many programs, maps and attachments as after the first."""
    node.start(mode)
    world.settle()
    first = node.found()
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        node.end(number)
        node.start(mode)
        world.settle()
    last = node.found()
    assert last.maps == first.maps
    assert last.links == first.links
    assert last.unlinked == first.unlinked
    assert len(last.programs) == len(first.programs)


@pytest.mark.parametrize("mode", [PINNED, PINLESS])
def test_other_sizes_stand_beside_and_take_over(
    mode: str, node: ContainedNode, world: World
) -> None:
    """Maps of another size are new and take over what the old ones hold, which end."""
    node.start(mode)
    world.settle()
    first = node.found()
    with busy(world):
        node.end(signal.SIGTERM)
        node.start(mode, "--bpf-max-services=4096")
        world.settle()
    last = node.found()
    assert len(last.maps) == len(first.maps)
    assert last.maps != first.maps
    assert (len(last.links), last.unlinked) == (len(first.links), first.unlinked)


def test_a_crash_while_swapping_is_repaired(node: ContainedNode, world: World) -> None:
    """Some hooks by links that nobody sees, some lost: the next start has each of them once."""
    node.start(PINNED)
    world.settle()
    first = node.found()
    node.end(signal.SIGKILL)
    for link_id in sorted(first.links)[::3]:
        with Link.from_id(link_id) as link:
            link.detach()
    node.start(PINLESS)
    world.settle()
    _attached_once(node.found(), first, PINLESS)


def test_killed_while_changing_over(node: ContainedNode, world: World) -> None:
    """Wherever a start is cut off, the datapath serves on and the next start puts it in order."""
    node.start(PINNED)
    world.settle()
    first = node.found()
    modes = itertools.cycle((PINLESS, PINNED))
    with connections(world, "TCP", "all", VIAS) as opened, busy(world):
        node.end(signal.SIGKILL)
        for step in range(8):
            begun = len(node.log())
            node.launch(next(modes))
            # The programs are attached next, which takes about a tenth of a second.
            until(lambda: "first_sync_finished" in node.log()[begun:], node.log)
            time.sleep(step * 0.012)
            node.end(signal.SIGKILL)
            go_on(opened)
        for mode in (PINLESS, PINNED):
            node.start(mode)
            world.settle()
            _attached_once(node.found(), first, mode)
            go_on(opened)
            node.end(signal.SIGTERM)


@pytest.mark.parametrize("mode", [PINNED, PINLESS])
def test_the_end_leaves_nothing_and_breaks_no_connection_of_sockets(
    mode: str, node: ContainedNode, world: World
) -> None:
    """After a cleanup neither programs nor maps are left; a socket needs no translation."""
    node.start(mode)
    world.settle()
    first = node.found()
    assert first.maps
    node.end(signal.SIGTERM)
    assert node.remove() == 0
    node.drop_pins()
    assert node.found() == Found(frozenset(), frozenset(), frozenset(), 0, 0)
    assert not _still_there(first)


def _still_there(found: Found) -> set[int]:
    there = set()
    for number in found.maps:
        try:
            BpfMap.from_id(number).close()
        except LibbpfError:
            continue
        there.add(number)
    return there
