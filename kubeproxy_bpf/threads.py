# SPDX-License-Identifier: Apache-2.0
"""Blocking work of the event loop's tasks, done in threads. Called by ``instance``, ``packets``,
``last_known``."""

from __future__ import annotations

import asyncio
import errno
from contextlib import suppress
from threading import Thread
from typing import Callable, TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Run in a thread, and to its end even when this task is cancelled: who closes what it works
    on must not find somebody still at work."""
    work = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


def in_own_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    """Run in a thread that nobody has to wait for, not even the end of the process: what hangs in
    the kernel cannot be ended. Nobody may close what it works on."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        # Who waited may have given up by now, and the loop may be closed.
        def tell() -> None:
            if not future.done():
                outcome()

        with suppress(RuntimeError):
            loop.call_soon_threadsafe(tell)

    def work() -> None:
        try:
            result = function()
        except Exception as error:
            failure = error
            settle(lambda: future.set_exception(failure))
        else:
            settle(lambda: future.set_result(result))

    _start(work, future.set_exception)
    return future


def _start(work: Callable[[], None], refused: Callable[[OSError], None]) -> None:
    try:
        Thread(target=work, daemon=True).start()
    except RuntimeError as error:  # there are no more
        refused(OSError(errno.EAGAIN, str(error)))
