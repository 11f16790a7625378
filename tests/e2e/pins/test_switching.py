# SPDX-License-Identifier: Apache-2.0
"""From pins to none and back, whole and cut off: whose state is taken, what stays."""

from __future__ import annotations

import itertools
import signal
import time

import pytest

from kubeproxy_bpf.libbpf import Link
from tests.e2e.packets.held import busy, connections, go_on
from tests.e2e.packets.table import Via
from tests.e2e.packets.world import World
from tests.e2e.pins.node import PINLESS, PINNED, ContainedNode, Found, until

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

VIAS = (Via.NODE1, Via.LOAD_BALANCER)


def test_the_other_mode_goes_on_with_the_same_state(node: ContainedNode, world: World) -> None:
    """From pins to none and back: same maps, same flows, and nothing is attached twice.

    In the end pins are seen but not wanted, by --bpf-pins=off: nothing is left of them.
    """
    node.start(PINNED)
    world.settle()
    first = node.found()
    with connections(world, "TCP", "all", VIAS) as opened, busy(world):
        for mode in (PINLESS, PINNED):
            node.end(signal.SIGKILL)
            node.start(mode)
            world.settle()
            _attached_once(node.found(), first, mode)
            go_on(opened)
        node.end(signal.SIGTERM)
        node.start(PINNED, "--bpf-pins=off")
        world.settle()
        _attached_once(node.found(), first, PINLESS)
        go_on(opened)
    assert not node.pins.exists()


def _attached_once(found: Found, first: Found, mode: str) -> None:
    """As many attachments as at first, all of them of one kind, over the same maps."""
    count = len(first.links)
    assert found.maps == first.maps
    assert (len(found.links), found.unlinked) == ((count, 0) if mode == PINNED else (0, count))
    assert len(found.programs) == len(first.programs)
    # Only what pins that nobody sees keep may be left of links, and it goes with these pins.
    assert found.dead in ((0,) if mode == PINNED else (0, count))


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


def test_killed_while_changing_over(node: ContainedNode, world: World, long: bool) -> None:
    """Wherever a start is cut off, the datapath serves on and the next start puts it in order.

    Bounded are the moments of the cut: four, two for each mode, and sixteen with ``--long``.
    """
    steps = 16 if long else 4
    node.start(PINNED)
    world.settle()
    first = node.found()
    modes = itertools.cycle((PINLESS, PINNED))
    with connections(world, "TCP", "all", VIAS) as opened, busy(world):
        node.end(signal.SIGKILL)
        for step in range(steps):
            begun = len(node.log())
            node.launch(next(modes))
            # The programs are attached next, which takes about a tenth of a second.
            until(lambda: "first_sync_finished" in node.log()[begun:], node.log)
            time.sleep(step * 0.1 / steps)
            node.end(signal.SIGKILL)
            go_on(opened)
        for mode in (PINLESS, PINNED):
            node.start(mode)
            world.settle()
            _attached_once(node.found(), first, mode)
            go_on(opened)
            node.end(signal.SIGTERM)
