# SPDX-License-Identifier: Apache-2.0
"""Many new flows that come to nothing, beside those that live."""

from __future__ import annotations

from typing import Callable

import pytest

from .conftest import ENTRIES
from .crowd import ACK, RST, SYN, TCP, UDP, Crowd, Place
from .world import FlowWorld

pytestmark = pytest.mark.root

LIVE = range(10_000)
LATER = range(20_000, 21_000)
SCAN_FIRST, MILLION = 100_000, 1_000_000
PAIRS = ENTRIES // 2

SETTLED = {TCP: "TCP_ESTABLISHED", UDP: "UDP_REPLIED"}


def unanswered(crowd: Crowd, place: Place, first: int, count: int) -> None:
    crowd.ask(place, count, SYN if place.protocol == TCP else 0, first)


def abandoned(crowd: Crowd, place: Place, first: int, count: int) -> None:
    """A flood of SYNs with false sources: the backend answers, nobody goes on."""
    crowd.ask(place, count, SYN, first)
    crowd.answer(place, count, SYN | ACK, first)


def refused(crowd: Crowd, place: Place, first: int, count: int) -> None:
    """A scan of ports that nobody listens on."""
    crowd.ask(place, count, SYN, first)
    crowd.answer(place, count, RST | ACK, first)


def cut_off(crowd: Crowd, place: Place, first: int, count: int) -> None:
    """A scan whose own kernel resets what it did not ask for."""
    abandoned(crowd, place, first, count)
    crowd.ask(place, count, RST, first)


Scan = Callable[[Crowd, Place, int, int], None]


def still_served(crowd: Crowd, world: FlowWorld, place: Place, numbers: range) -> bool:
    """Whether each packet of these flows, in both directions, meets its flow."""
    before = world.counted()
    flags = ACK if place.protocol == TCP else 0
    crowd.ask(place, len(numbers), flags, numbers.start)
    crowd.answer(place, len(numbers), flags, numbers.start)
    return world.counted() == before


@pytest.mark.parametrize("protocol", (TCP, UDP), ids=("tcp", "udp"))
def test_a_scan_of_a_million(crowd: Crowd, world: FlowWorld, protocol: int) -> None:
    """It takes no flow that was answered, leaves room for others, and is counted."""
    place = world.serve_clients(protocol)
    crowd.establish(place, len(LIVE))

    unanswered(crowd, place, SCAN_FIRST, MILLION // 2)
    crowd.establish(place, len(LATER), LATER.start)
    unanswered(crowd, place, SCAN_FIRST + MILLION // 2, MILLION // 2)

    flows = world.table()
    assert (
        world.states(flows, place, LIVE) == world.states(flows, place, LATER) == {SETTLED[protocol]}
    )
    assert world.halves(flows) == {}
    all_flows = len(LIVE) + len(LATER) + MILLION
    recycled = all_flows - PAIRS
    counted = world.counted()
    assert counted.pop("FLOW_NEW") == all_flows
    assert recycled <= counted.pop("FLOWS_RECYCLED") <= recycled + 2
    assert not counted
    assert still_served(crowd, world, place, LIVE)


@pytest.mark.parametrize("scan", (abandoned, refused, cut_off))
def test_a_scan_with_answers(crowd: Crowd, world: FlowWorld, scan: Scan) -> None:
    """Connections that were begun or refused make room for others as well."""
    place = world.serve_clients()
    crowd.establish(place, len(LIVE))
    for first in range(SCAN_FIRST, SCAN_FIRST + 4 * PAIRS, 1000):
        scan(crowd, place, first, 1000)
    crowd.establish(place, len(LATER), LATER.start)

    flows = world.table()
    assert (
        world.states(flows, place, LIVE) == world.states(flows, place, LATER) == {"TCP_ESTABLISHED"}
    )
    assert world.count("FLOWS_FULL") == 0


@pytest.mark.parametrize("protocol", (TCP, UDP), ids=("tcp", "udp"))
def test_after_a_scan(crowd: Crowd, world: FlowWorld, protocol: int) -> None:
    """What the scan left goes as new flows come, by their packets alone."""
    place = world.serve_clients(protocol)
    crowd.establish(place, len(LIVE))
    unanswered(crowd, place, SCAN_FIRST, 2 * PAIRS)
    world.age(but=[SETTLED[protocol]])
    recycled = world.count("FLOWS_RECYCLED")

    room = range(30_000, 30_000 + PAIRS - len(LIVE))
    crowd.establish(place, len(room), room.start)

    flows = world.table()
    assert (
        world.states(flows, place, LIVE) == world.states(flows, place, room) == {SETTLED[protocol]}
    )
    assert world.count("FLOWS_RECYCLED") == recycled
    assert world.count("FLOWS_FULL") == 0


def test_flows_that_outlived_a_scan(crowd: Crowd, world: FlowWorld) -> None:
    """A flow whose client vanished is found and removed, also after many others came and went."""
    place = world.serve_clients()
    crowd.establish(place, len(LIVE))
    unanswered(crowd, place, SCAN_FIRST, 4 * PAIRS)
    world.age()

    for first in range(SCAN_FIRST + MILLION, SCAN_FIRST + MILLION + 4 * PAIRS, PAIRS // 4):
        unanswered(crowd, place, first, PAIRS // 4)
        world.age()

    assert world.states(world.table(), place, LIVE) == {"NONE"}
