# SPDX-License-Identifier: Apache-2.0
"""Readers in the kernel against the writer: nobody ever sees a half state.

The reader stays between all its reads. Each rule is also run without grace periods, where the same
reader must see what the rule forbids: a check that cannot fail proves nothing.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
from typing import Any, Awaitable, Callable, Iterator

import pytest

from kubeproxy_bpf.dataplane.program import Programmer
from kubeproxy_bpf.model.types import BackendSpec, Changes, Desired, FrontendSpec, ServicePortId
from kubeproxy_bpf.plan.records import FrontendKind
from tests.plan_objects import ip, port_id

pytestmark = pytest.mark.root

VIP = ip("10.96.0.1")
MEMBERS = 8
STAY = 20_000
X, Y = 1001, 1002


def tagged(port: int, number: int) -> Desired:
    """A service port whose backends name their frontend and their set."""
    tag = port.to_bytes(2, "big") + bytes((number % 251 + 1,))
    backends = tuple(
        BackendSpec(bytes(10) + b"\xff\xff" + tag + bytes((member,)), 80, 6, 0)
        for member in range(MEMBERS)
    )
    front = FrontendSpec(VIP, port, 6, FrontendKind.CLUSTER_IP, 0)
    return Desired((front,), backends, MEMBERS, 0, 0, 0, 4)


def without_frontend(wanted: Desired) -> Desired:
    return wanted._replace(frontends=())


def swaps(rounds: int) -> Iterator[Changes]:
    """One service port, another disjoint set of endpoints each time."""
    for number in range(rounds):
        yield Changes({port_id("x"): tagged(X, number)}, {})


def recreations(rounds: int) -> Iterator[Changes]:
    """X goes and Y comes, then Y goes and X comes, each time as another Service."""
    for number in range(rounds):
        came, went = (X, Y) if number % 2 else (Y, X)
        yield Changes({port_id(f"{went}-{number - 1}"): None}, {})
        for turn in range(20):  # it lives long enough to be found
            yield Changes({port_id(f"{came}-{number}"): tagged(came, number + turn)}, {})


def moves(rounds: int) -> Iterator[Changes]:
    """X and Y each move from one Service to another at the same time."""
    for number in range(rounds):
        services: dict[ServicePortId, Desired | None] = {}
        for port in (X, Y):
            for side in (0, 1):
                wanted = tagged(port, side)
                held = wanted if number % 2 == side else without_frontend(wanted)
                services[port_id(f"{port}-{side}")] = held
        yield Changes(services, {})


async def beside(read: Callable[[], None], work: Awaitable[None]) -> None:
    """Read in a thread for as long as the work takes."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            read()

    reading = asyncio.create_task(asyncio.to_thread(loop))
    try:
        await work
    finally:
        stop.set()
        await reading


async def program_all(programmer: Programmer, changes: Iterator[Changes]) -> None:
    await programmer.start()
    await programmer.apply(Changes({}, {}, True))
    for change in changes:
        await programmer.apply(change)
        await asyncio.sleep(0)


def until_violated(kernel: Any, changes: Iterator[Changes]) -> Iterator[Changes]:
    """Go on only as long as the reader has nothing to complain of."""
    for number, change in enumerate(changes):
        if number % 50 == 0 and kernel.told()[1]:
            return
        yield change


async def observed(kernel: Any, grace: Any, changes: Iterator[Changes]) -> tuple[int, int, int]:
    """Let the reader watch frontend X while these changes are programmed."""
    writer = kernel.writer(grace)
    programmer = Programmer(writer)
    kernel.ask(VIP, X, STAY)
    try:
        await beside(lambda: kernel.read("t_read"), program_all(programmer, changes))
        await programmer.settled()
    finally:
        await programmer.close()
        writer.close()
    seen: tuple[int, int, int] = kernel.told()
    return seen


CASES = [
    pytest.param(swaps, 3000, 20_000, id="endpoints swap"),
    pytest.param(recreations, 60, 2_000, id="frontends are re-created with other Services"),
    pytest.param(moves, 60, 10_000, id="frontends move between Services"),
]


@pytest.mark.parametrize("changes, rounds, without", CASES)
async def test_no_reader_sees_a_half_state(
    kernel: Any, changes: Callable[[int], Iterator[Changes]], rounds: int, without: int
) -> None:
    """All backends of a visit are of the frontend asked for, and of one set."""
    seen, violations, example = await observed(kernel, None, changes(rounds))

    assert (0, 0) == (violations, example)
    assert seen > 50


@pytest.mark.parametrize("changes, rounds, without", CASES)
async def test_without_grace_periods_the_reader_sees_half_states(
    kernel: Any,
    no_grace: Any,
    changes: Callable[[int], Iterator[Changes]],
    rounds: int,
    without: int,
) -> None:
    """The check above can fail: it does as soon as nobody waits for readers."""
    forbidden = until_violated(kernel, changes(without))
    _, violations, _ = await observed(kernel, no_grace, forbidden)

    assert violations > 0


class Halves:
    """Stores a word as two halves, which is what must never happen."""

    def __init__(self, words: Any) -> None:
        self._halves = (ctypes.c_uint32 * 4).from_address(ctypes.addressof(words))

    def store(self, index: int, word: int) -> None:
        self._halves[2 * index] = word & 0xFFFFFFFF
        self._halves[2 * index + 1] = word >> 32


async def stores(kernel: Any, target: Any, torn: bool) -> None:
    """Store until enough was read, and until the reader complains if it has reason to."""
    for number in range(1, 10_000_000):
        target.store(1, number << 32 | number)
        if number % 1000 == 0:
            await asyncio.sleep(0)
            seen, violations, _ = kernel.told()
            if number >= 300_000 and seen > 1_000_000 and (violations or not torn):
                return


@pytest.mark.parametrize("torn", [False, True])
async def test_words_are_stored_whole(kernel: Any, torn: bool) -> None:
    """No program sees half of a word; if it is stored in halves, programs do see it."""
    writer = kernel.writer()
    words = writer._maps.services
    kernel.ask(VIP, X, 0)
    target = Halves(words._words) if torn else words
    await beside(lambda: kernel.read("t_tear"), stores(kernel, target, torn))
    del target
    seen, violations, _ = kernel.told()
    writer.close()

    assert seen > 1_000_000
    assert torn == (violations > 0)
