# SPDX-License-Identifier: Apache-2.0
"""Time as the API side sees it, so that tests decide how fast it passes.

Only waiting and deciding go through it; time-outs of sockets belong to the event loop.
"""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import Protocol


class Clock(Protocol):
    """What the API side asks of time."""

    def monotonic(self) -> float: ...

    def wall(self) -> float:
        """Seconds since the epoch, to read dates that a server sends."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The time of this machine."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Backoff:
    """Exponential delays with jitter, so that a thousand nodes do not come back as one."""

    def __init__(self, first_s: float, max_s: float, random: Random) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._random = random
        self._failures = 0

    def next(self) -> float:
        """The next delay: between half and all of a base that doubles each time."""
        # The exponent is bounded because 2.0 ** 1024 overflows after a few days of outage.
        base = min(self._first_s * 2.0 ** min(self._failures, 32), self._max_s)
        self._failures += 1
        return base * self._random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._failures = 0
