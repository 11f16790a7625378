# SPDX-License-Identifier: Apache-2.0
"""How long a stream may say nothing before it is given up.

Two silences have limits of their own, beside the one of every socket. Initial events that never end
show an older server: it sends all objects when asked for initial events, as for any watch, but no
bookmark after them. And bookmarks that stop coming show a watch that is open and dead: servers send
them about every minute, so that three of them missing say what the time of the whole watch would
say minutes later. A server that sends none loses nothing. And no stream outlives its time, however
busy it seems: a line that comes byte by byte is no news. What a silence says about our position is
the reflector's part, which uses this.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType

FACTOR = 3.0
LEAST_S = 5.0


class InitialEventsEndless(Exception):
    """The server does not say where its initial events end; not an error for anybody."""


class Silent(OSError):
    """A watch that brings nothing any more, whatever keeps it open."""


class FirstSilence(Silent):
    """It may be that the pace was mistaken: nobody is to be alarmed yet."""


class Pulse:
    """The pace of a server's bookmarks, as far as its streams have shown it."""

    def __init__(self) -> None:
        self._gap_s: float | None = None
        self._patience = 1
        self._last: float | None = None

    def begin(self) -> None:
        """A new stream; how soon its first bookmark comes tells nothing."""
        self._last = None

    def beat(self, now: float) -> None:
        if self._last is not None:
            self._gap_s = max(self._gap_s or 0.0, now - self._last)
            self._patience = 1
        self._last = now

    def missed(self) -> bool:
        """A stream is given up: be more patient until bookmarks come again, in case the pace was
        mistaken. Whether it is the first since they did."""
        self._patience *= 2
        return self._patience == 2

    @property
    def limit_s(self) -> float | None:
        """How long silence is nothing special; None: it says nothing."""
        if self._gap_s is None:
            return None
        return max(LEAST_S, FACTOR * self._gap_s * self._patience)


class Watchdog:
    """Ends the block that it guards when the stream within is silent for too long."""

    def __init__(
        self, pulse: Pulse, collecting: bool, idle_s: float, limit_s: float, life_s: float
    ) -> None:
        """``idle_s`` between two pieces of the initial events, ``limit_s`` for all of them, and
        ``life_s`` for the whole stream."""
        self._pulse = pulse
        self._collecting = collecting
        self._idle_s = idle_s
        begin = asyncio.get_running_loop().time()
        self._end = begin + limit_s
        self._death = begin + life_s
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> Watchdog:
        self._pulse.begin()
        await self._timeout.__aenter__()
        self.heard(self._collecting)
        return self

    def heard(self, collecting: bool, bookmark: bool = False) -> None:
        """Something came; ``collecting``: the initial events have not ended yet."""
        now = asyncio.get_running_loop().time()
        self._collecting = collecting
        if collecting:
            self._timeout.reschedule(min(now + self._idle_s, self._end))
            return
        if bookmark:
            self._pulse.beat(now)
        limit_s = self._pulse.limit_s
        silent = math.inf if limit_s is None else now + limit_s
        self._timeout.reschedule(min(silent, self._death))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            if self._collecting:
                raise InitialEventsEndless("no end of the initial events") from None
            if asyncio.get_running_loop().time() >= self._death:
                raise Silent("the watch has outlived its time") from None
            silence = FirstSilence if self._pulse.missed() else Silent
            raise silence("bookmarks stopped coming: the watch is dead") from None
