# SPDX-License-Identifier: Apache-2.0
"""One writer per instance."""

from __future__ import annotations

import asyncio
import os

import pytest

from kubeproxy_bpf.dataplane.lock import WriterLock
from kubeproxy_bpf.errors import WriterBusy


@pytest.fixture
def instance() -> str:
    return f"kpbt-lock-{os.getpid()}"


def test_only_one_holds_the_name(instance: str) -> None:
    """A second one is refused until the first gives it up; other instances do not matter."""
    first, second, other = WriterLock(instance), WriterLock(instance), WriterLock(instance + "-2")
    try:
        assert [True, False, True] == [lock.try_acquire() for lock in (first, second, other)]
        first.release()
        assert second.try_acquire()
    finally:
        for lock in (first, second, other):
            lock.release()


async def test_who_waits_is_told_and_gets_the_name_when_the_holder_ends(instance: str) -> None:
    """The kernel wakes the second one."""
    first, second, told = WriterLock(instance), WriterLock(instance), list[WriterBusy]()
    try:
        assert first.try_acquire()
        waiting = asyncio.create_task(second.acquire(told.append))
        while not told:
            await asyncio.sleep(0)
        assert not second.held
        first.release()
        await waiting
        assert second.held
    finally:
        first.release()
        second.release()


async def test_giving_up_the_wait_leaves_nothing(instance: str) -> None:
    """A cancelled waiter holds no socket."""
    first, second = WriterLock(instance), WriterLock(instance)
    try:
        first.try_acquire()
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not second.held
    finally:
        first.release()
