# SPDX-License-Identifier: Apache-2.0
"""One writer per instance."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from kubeproxy_bpf.dataplane.lock import PinLock, WriterLock
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


# ---- the directory of pins ----


def test_only_one_holds_the_directory(tmp_path: Path) -> None:
    """A second one is refused until the first gives it up, whatever namespace it is in."""
    first, second, other = PinLock(tmp_path), PinLock(tmp_path), PinLock(tmp_path / "other")
    try:
        assert [True, False, True] == [lock.try_acquire() for lock in (first, second, other)]
        assert first.try_acquire()
        first.release()
        assert second.try_acquire()
    finally:
        for lock in (first, second, other):
            lock.release()


async def test_who_waits_for_the_directory_is_told_once(tmp_path: Path) -> None:
    """It gets the lock when the holder ends, also where the holder removed the directory."""
    path = tmp_path / "pins"
    first, second, told = PinLock(path), PinLock(path), list[WriterBusy]()
    try:
        assert first.try_acquire()
        waiting = asyncio.create_task(second.acquire(told.append))
        while not told:
            await asyncio.sleep(0)
        path.rmdir()
        await waiting
        assert path.is_dir()
        assert [each.instance for each in told] == [str(path)]
        first.release()
        assert not PinLock(path).try_acquire()
    finally:
        first.release()
        second.release()


def test_a_directory_that_is_removed_while_it_is_locked_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise two would hold a lock, each on a directory of the same name."""
    path, lock = tmp_path / "pins", PinLock(tmp_path / "pins")

    def replaced(fd: int, how: int) -> None:
        path.rename(tmp_path / "past")
        path.mkdir()

    monkeypatch.setattr("fcntl.flock", replaced)
    assert not lock.try_acquire()


def test_a_directory_that_was_made_anew_is_taken_again(tmp_path: Path) -> None:
    """Its file system may have been unmounted; the lock of the old one keeps nobody away."""
    lock, other = PinLock(tmp_path / "pins"), PinLock(tmp_path / "pins")
    try:
        assert lock.try_acquire() and lock.renew() and lock.is_current()
        (tmp_path / "pins").rename(tmp_path / "gone")
        assert not lock.is_current()
        (tmp_path / "pins").mkdir()
        assert not lock.is_current()
        assert lock.renew()
        assert not other.try_acquire()
        (tmp_path / "pins").rename(tmp_path / "gone2")
        assert lock.renew(), "there was none any more"
    finally:
        lock.release()
        other.release()


def test_a_directory_that_another_took_stays_lost_until_it_ends(tmp_path: Path) -> None:
    """However often it is asked for: who was told once that it is lost may not take it for its."""
    lock, other = PinLock(tmp_path / "pins"), PinLock(tmp_path / "pins")
    try:
        assert lock.try_acquire()
        (tmp_path / "pins").rename(tmp_path / "gone")
        assert other.try_acquire()
        assert [lock.renew(), lock.renew(), lock.is_current()] == [False, False, False]
        other.release()
        assert lock.renew()
    finally:
        lock.release()
        other.release()
