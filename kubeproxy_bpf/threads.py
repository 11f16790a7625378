# SPDX-License-Identifier: Apache-2.0
"""Blocking work of the event loop's tasks, done in threads. Called by ``instance``, ``packets``."""

from __future__ import annotations

import asyncio
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
