# SPDX-License-Identifier: Apache-2.0
"""When sockets of removed backends are looked for."""

import asyncio

import pytest
import structlog

from kubeproxy_bpf import udp_aborts as module
from kubeproxy_bpf.dataplane.terminator import Aborted
from kubeproxy_bpf.udp_aborts import UdpAborts

PEER = (bytes(16), 53)
OTHER = (bytes(16), 54)


class Looks:
    """A terminator that counts how often sockets are looked at, and aborts one each time."""

    def __init__(self):
        self.lost = []
        self.refusing = False
        self.unreachable = 0

    def run(self, lost):
        self.lost.append(set(lost))
        if self.refusing:
            raise OSError("no")
        return Aborted(1, self.unreachable)

    async def until(self, count):
        async with asyncio.timeout(10):
            while len(self.lost) < count:
                await asyncio.sleep(0.001)


@pytest.fixture
def looks():
    return Looks()


@pytest.fixture
async def aborts(looks):
    aborts = UdpAborts(looks)
    task = asyncio.create_task(aborts.run())
    yield aborts
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def aborted(aborts, count):
    """Wait until so many sockets were: the look began before, in another thread."""
    async with asyncio.timeout(10):
        while aborts.sockets < count:
            await asyncio.sleep(0.001)


async def test_sockets_are_looked_at_twice(aborts, looks, monkeypatch):
    """A socket that was connecting during the first look is found by the second."""
    monkeypatch.setattr(module, "_SECOND_LOOK_S", 0.01)
    aborts.ask([PEER])
    await aborted(aborts, 2)
    await asyncio.sleep(0.05)

    assert [{PEER}, {PEER}] == looks.lost


async def test_a_request_does_not_wait_for_the_second_look(aborts, looks, monkeypatch):
    """Backends that leave one after the other are each acted on at once."""
    monkeypatch.setattr(module, "_SECOND_LOOK_S", 3600)
    for count in (1, 2, 3):
        aborts.ask([])
        await looks.until(count)


async def test_a_refusal_ends_nothing(aborts, looks, monkeypatch):
    """What could not be looked at now is looked at with the next request."""
    monkeypatch.setattr(module, "_SECOND_LOOK_S", 3600)
    looks.refusing = True
    aborts.ask([PEER])
    await looks.until(1)
    looks.refusing = False
    aborts.ask([OTHER])
    await looks.until(2)

    assert {PEER, OTHER} == looks.lost[1]
    await aborted(aborts, 1)


async def test_what_could_not_be_looked_at_is_tried_again(aborts, looks, monkeypatch):
    """Nobody may ask again: a process without descriptors for a moment must not leave sockets with
    a backend that is gone. It says so once."""
    monkeypatch.setattr(module, "_SECOND_LOOK_S", 0.01)
    looks.refusing = True
    with structlog.testing.capture_logs() as logged:
        aborts.ask([PEER])
        await looks.until(5)
    looks.refusing = False
    await aborted(aborts, 1)

    assert PEER in looks.lost[-1]
    assert ["udp_sockets_not_aborted"] == [each["event"] for each in logged]


async def test_endless_requests_put_off_no_second_look(aborts, looks, monkeypatch):
    """Where backends leave all the time, each is looked for twice, and no longer than a moment."""
    monkeypatch.setattr(module, "_SECOND_LOOK_S", 0.2)
    aborts.ask([PEER])
    await looks.until(1)
    async with asyncio.timeout(10):
        while PEER in looks.lost[-1]:
            aborts.ask([OTHER])
            await looks.until(len(looks.lost) + 1)

    assert 1 < sum(PEER in lost for lost in looks.lost)


async def test_namespaces_out_of_reach_are_told_once(aborts, looks, monkeypatch):
    """A process that may not enter them says so, and does not repeat it with every change."""
    monkeypatch.setattr(module, "_SECOND_LOOK_S", 3600)
    looks.unreachable = 3
    with structlog.testing.capture_logs() as logged:
        # When the third begins, what came of the second is told.
        for count in (1, 2, 3):
            aborts.ask([PEER])
            await looks.until(count)

    (event,) = [each for each in logged if each["event"] == "udp_sockets_out_of_reach"]
    assert (3, "warning") == (event["namespaces"], event["log_level"])
