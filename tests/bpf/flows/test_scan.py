# SPDX-License-Identifier: Apache-2.0
"""Many new flows that come to nothing, beside those that live."""

from __future__ import annotations

from time import sleep
from typing import Callable

import pytest

from .conftest import BRIEF_S, ENTRIES, Brief
from .crowd import ACK, RST, SYN, TCP, UDP, Crowd, Place
from .world import FlowWorld

pytestmark = pytest.mark.root

LIVE = range(10_000)
LATER = range(20_000, 21_000)
SCAN_FIRST, MILLION = 100_000, 1_000_000
PAIRS = ENTRIES // 2
SMALL, STEPS = 1024, 10
REPETITIONS = 3

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


def insist(crowd: Crowd, place: Place, numbers: range) -> None:
    """Clients that repeat what nobody answered."""
    for _ in range(REPETITIONS):
        crowd.ask(place, len(numbers), SYN, numbers.start)
    crowd.establish(place, len(numbers), numbers.start)


@pytest.mark.parametrize(
    ("protocol", "count"), ((TCP, MILLION), (UDP, 300_000)), ids=("tcp", "udp")
)
def test_a_scan_of_a_million(crowd: Crowd, world: FlowWorld, protocol: int, count: int) -> None:
    """It takes no flow that was answered, leaves room for others, and is counted."""
    place = world.serve_clients(protocol)
    crowd.establish(place, len(LIVE))
    step = count // STEPS

    for first in range(SCAN_FIRST, SCAN_FIRST + count, step):
        unanswered(crowd, place, first, step)
        assert still_served(crowd, world, place, LIVE)
        insist(crowd, place, LATER)

    table = world.table()
    assert world.states(table, place, LIVE) == {SETTLED[protocol]}
    assert world.states(table, place, LATER) == {SETTLED[protocol]}
    assert world.halves(table) == {}
    counted = world.counted()
    made = counted.pop("FLOW_NEW")
    # Where many that live stand in line, some of those who come have to come again.
    assert counted.pop("FLOWS_FULL", 0) < made / 50
    assert made - PAIRS <= counted.pop("FLOWS_RECYCLED") <= made - PAIRS + 2
    assert not counted


@pytest.mark.parametrize("scan", (abandoned, refused, cut_off))
def test_a_scan_with_answers(crowd: Crowd, world: FlowWorld, scan: Scan) -> None:
    """Connections that were begun or refused make room for others as well."""
    place = world.serve_clients()
    crowd.establish(place, len(LIVE))
    for first in range(SCAN_FIRST, SCAN_FIRST + 4 * PAIRS, SMALL):
        scan(crowd, place, first, SMALL)
    insist(crowd, place, LATER)

    table = world.table()
    assert world.states(table, place, LIVE) == {"TCP_ESTABLISHED"}
    assert world.states(table, place, LATER) == {"TCP_ESTABLISHED"}
    assert world.count("FLOWS_FULL") < 4 * PAIRS / 50


def test_after_a_scan(brief: Brief) -> None:
    """When its time is up, what the scan left goes as new flows come, by their packets alone."""
    crowd, world = brief
    place = world.serve_clients()
    unanswered(crowd, place, SCAN_FIRST, 2 * PAIRS)
    sleep(BRIEF_S)
    before = world.counted()

    for first in range(0, PAIRS, SMALL):
        crowd.establish(place, SMALL, first)

    assert world.states(world.table(), place, range(PAIRS)) == {"TCP_ESTABLISHED"}
    assert world.counted() == before | {"FLOW_NEW": before["FLOW_NEW"] + PAIRS}


def test_flows_that_outlived_a_scan(brief: Brief) -> None:
    """A flow whose client vanished is found and removed, also after many others came and went."""
    crowd, world = brief
    place = world.serve_clients(UDP)
    crowd.establish(place, len(LIVE))
    unanswered(crowd, place, SCAN_FIRST, 4 * PAIRS)
    sleep(BRIEF_S)

    for first in range(SCAN_FIRST + MILLION, SCAN_FIRST + MILLION + 2 * PAIRS, SMALL):
        unanswered(crowd, place, first, SMALL)

    assert world.states(world.table(), place, LIVE) == {"NONE"}
