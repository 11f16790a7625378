# SPDX-License-Identifier: Apache-2.0
"""A world in which the proxies run in containers, with or without the node's bpffs."""

from __future__ import annotations

import os
from typing import Iterator

import pytest

from tests.e2e.packets.table import ALL
from tests.e2e.packets.world import PRESERVE, World, standing
from tests.e2e.pins.node import NOTHING, PINNED, ContainedNode, still_there


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Strict nodes with a bridge; the proxies are the tests' to start."""
    name = f"kpbt-k{os.getpid()}"
    with standing(name, "bridge", [PRESERVE], strict=True, proxies=False) as made:
        yield made


@pytest.fixture(scope="module")
def other(world: World) -> Iterator[ContainedNode]:
    """The second node, whose proxy runs all the time; nothing of it may change."""
    made = ContainedNode(world, "node2")
    made.start(PINNED)
    yield made


@pytest.fixture
def node(world: World, other: ContainedNode) -> Iterator[ContainedNode]:
    """The first node without proxy; afterwards nothing is left of what the test had there."""
    made = ContainedNode(world)
    before = other.found()
    yield made
    made.end_if_running()
    left = made.found()
    assert made.remove() == 0
    made.drop_pins()
    assert made.found() == NOTHING
    assert not still_there(left)
    world.endpoints("all", ALL, settle=False)
    assert other.found() == before
