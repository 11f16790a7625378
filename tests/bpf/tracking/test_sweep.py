# SPDX-License-Identifier: Apache-2.0
"""The sweep over a real flow table: what goes, what stays, what it tells."""

from __future__ import annotations

import asyncio
from typing import Any, Mapping

import pytest

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.dataplane import sweep as module
from kubeproxy_bpf.dataplane.sweep import Sweeper

from .conftest import VIP, Flows

pytestmark = pytest.mark.root

AGO, SOON = -1000, 1000


class Lingering:
    """Addresses that linger, and those that were reported to have no flow."""

    def __init__(self, *texts: str) -> None:
        self.addresses: dict[bytes, int] = {}
        for token, text in enumerate(texts, 1):
            address = parse_address(text)
            assert address is not None
            self.addresses[address] = token
        self.forgotten: dict[bytes, int] = {}

    def __call__(self) -> Mapping[bytes, int]:
        return self.addresses

    async def forget(self, addresses: Mapping[bytes, int]) -> None:
        self.forgotten.update(addresses)


def sweeper(flows: Flows, lingering: Lingering | None = None, **options: Any) -> Sweeper:
    lingering = lingering or Lingering()
    return Sweeper(flows.table, lingering, lingering.forget, **options)


@pytest.fixture(autouse=True)
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rest between steps: what is tested is the work."""
    monkeypatch.setattr(module, "_REST", 0)
    monkeypatch.setattr(module, "_REST_MIN_S", 0)


async def test_dead_pairs_go_and_live_ones_stay(flows: Flows) -> None:
    """A pair goes only when both deadlines have passed, and then both of its entries."""
    live = flows.put(1, SOON, SOON)
    by_reply = flows.put(2, AGO, SOON)
    by_forward = flows.put(3, SOON, AGO)
    dead = flows.put(4, AGO, AGO)
    half = flows.put(5, AGO)

    walked = sweeper(flows)
    await walked.walk()

    for pair in (live, by_reply, by_forward):
        assert pair.forward in flows and pair.reply in flows
    for pair in (dead, half):
        assert pair.forward not in flows and pair.reply not in flows
    assert walked.removed == 3


async def test_what_has_no_partner_goes_alone(flows: Flows) -> None:
    """The reverse of a flow that is left alone is a flow of its own."""
    dead, live = flows.put_alone(1, AGO), flows.put_alone(2, SOON)
    answer = flows.put_alone(1, SOON, reverse=True)
    await sweeper(flows).walk()

    assert dead not in flows
    assert live in flows and answer in flows


async def test_what_died_this_moment_is_left_to_the_programs(flows: Flows) -> None:
    """Their clock is coarser: a packet may still find the entry alive."""
    pair = flows.put(1, -1, -1)
    await sweeper(flows).walk()

    assert pair.forward in flows


async def test_deadlines_are_compared_around_the_end_of_the_counter(flows: Flows) -> None:
    """Ticks are 32 bits: the far end of the counter is the future, not the past."""
    pair = flows.put(1, (1 << 31) - 100, (1 << 31) - 100)
    await sweeper(flows).walk()

    assert pair.forward in flows


async def test_a_packet_that_comes_after_the_batch_was_read_saves_its_flow(flows: Flows) -> None:
    """A walk may rest for long between reading and removing; what it acts on is read anew."""
    pair = flows.put(1, AGO, AGO)
    walked = sweeper(flows)
    steps = walked._steps({}, set())
    next(steps)
    flows.touch(pair.reply, SOON)
    for _ in steps:
        pass

    assert pair.forward in flows and pair.reply in flows


async def test_many_entries_take_many_steps(flows: Flows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry is met once, however the walk is cut; the next walk finds the table as it is."""
    monkeypatch.setattr(module, "_BATCH", 128)
    monkeypatch.setattr(module, "_REMOVALS", 16)
    for port in range(1, 1001):
        flows.put(port, AGO if port % 2 else SOON, AGO)
    walked = sweeper(flows)
    steps = sum(1 for _ in walked._steps({}, set()))
    first = walked.entries
    await walked.walk()

    assert steps >= 1000 // 128 + 1000 // 16
    assert 1000 <= first <= 2000
    assert (flows.count, walked.entries, walked.removed) == (1000, 1000, 1000)
    assert walked.capacity == flows.map.max_entries


async def test_addresses_without_flows_are_told(flows: Flows) -> None:
    """Lingering addresses go when no entry leads there, by the token that they were named with."""
    flows.put(1, SOON, SOON)
    lingering = Lingering(VIP, "10.96.0.2", "fd00::1")
    await sweeper(flows, lingering).walk()

    assert set(lingering.forgotten.values()) == {2, 3}


async def test_an_address_goes_when_its_last_flow_has_gone(flows: Flows) -> None:
    """The walk that removes the flow still meets it; the next one tells."""
    flows.put(1, AGO, AGO)
    lingering = Lingering(VIP)
    walked = sweeper(flows, lingering)
    await walked.walk()
    assert not lingering.forgotten
    await walked.walk()

    assert lingering.forgotten == lingering.addresses


async def test_it_walks_again_and_again(flows: Flows) -> None:
    """A table that was fine is looked at again."""
    walked = sweeper(flows, every_s=0.01)
    task = asyncio.create_task(walked.run())
    try:
        pair = flows.put(1, AGO, AGO)
        async with asyncio.timeout(20):
            while pair.forward in flows:
                await asyncio.sleep(0.01)
        pair = flows.put(2, AGO, AGO)
        async with asyncio.timeout(20):
            while pair.forward in flows:
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_address_that_begins_to_linger_is_looked_at_soon(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for the next walk to lose the address of a Service that had no flow."""
    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    lingering = Lingering()
    task = asyncio.create_task(sweeper(flows, lingering, every_s=3600).run())
    try:
        await asyncio.sleep(0.05)
        lingering.addresses |= Lingering(VIP).addresses
        async with asyncio.timeout(20):
            while not lingering.forgotten:
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_address_in_use_is_not_looked_at_again_and_again(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as nothing new lingers the walks keep their distance."""
    monkeypatch.setattr(module, "_LOOK_S", 0.001)
    flows.put(1, SOON, SOON)
    lingering = Lingering(VIP)
    walked = sweeper(flows, lingering, every_s=3600)
    await walked.walk()
    looks: list[None] = []
    monkeypatch.setattr(walked, "_lingering", lambda: looks.append(None) or lingering())
    rest = asyncio.create_task(walked._rest())
    try:
        async with asyncio.timeout(20):
            while len(looks) < 10:
                await asyncio.sleep(0.001)
        assert not rest.done()
    finally:
        rest.cancel()
        await asyncio.gather(rest, return_exceptions=True)


async def test_it_rests_in_proportion_to_its_work(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each step it sleeps for a multiple of the processor time that the step took."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(module, "_REST", 99)
    monkeypatch.setattr(module, "_timed", lambda steps: next((0.5 for _ in steps), None))
    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    flows.put(1, AGO, AGO)
    await sweeper(flows).walk()

    assert slept == [49.5, 49.5]
