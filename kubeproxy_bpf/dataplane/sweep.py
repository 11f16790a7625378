# SPDX-License-Identifier: Apache-2.0
"""Walks the flow table now and then: removes dead pairs, counts, and finds addresses without flow.

Nothing depends on it: the programs treat a dead entry as absent and make room themselves. It frees
memory sooner, tells how full the table is, and lets addresses of deleted Services go that no flow
leads to any more; therefore it also walks soon after one began to linger. It works in small steps
in a thread and rests after each for a hundred times as long as that took, so that it never uses
more than about one per cent of a processor. Run by ``packet_state``.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from itertools import islice
from typing import Awaitable, Callable, Iterator, Mapping, NoReturn

import structlog

from kubeproxy_bpf.dataplane.flows import FlowTable, now_ticks
from kubeproxy_bpf.libbpf import LibbpfError
from kubeproxy_bpf.threads import in_thread

_log = structlog.get_logger(__name__)

_EVERY_S = 30.0
_LOOK_S = 1.0
_BATCH = 1024
_REMOVALS = 256
"""Dead entries looked at in one step; each costs a few system calls."""
_REST = 99
_REST_MIN_S = 0.01


class Sweeper:
    """Walks the table for ever."""

    def __init__(
        self,
        table: FlowTable,
        lingering: Callable[[], Mapping[bytes, int]],
        forget: Callable[[Mapping[bytes, int]], Awaitable[object]],
        every_s: float = _EVERY_S,
    ) -> None:
        """``lingering`` names addresses that stay for the sake of flows alone; ``forget`` is told
        those of them to which none leads."""
        self._table = table
        self._lingering = lingering
        self._forget = forget
        self._every_s = every_s
        self._walked: Mapping[bytes, int] = {}
        """What lingered when the last walk began."""
        self.entries = 0
        """Met by the last complete walk, dead ones included."""
        self.removed = 0
        """Entries removed since the start."""

    @property
    def capacity(self) -> int:
        """Entries that the table has room for."""
        return self._table.capacity

    async def run(self) -> NoReturn:
        """Walk, rest, and walk again."""
        while True:
            await self.walk()
            await self._rest()

    async def walk(self) -> None:
        """One walk over the whole table."""
        lingering = self._walked = dict(self._lingering())
        in_use: set[bytes] = set()
        steps = self._steps(lingering, in_use)
        step = partial(_timed, steps)
        try:
            while (used_s := await in_thread(step)) is not None:
                await asyncio.sleep(max(used_s * _REST, _REST_MIN_S))
        except LibbpfError as error:
            _log.warning("flow_sweep_failed", error=str(error))
            return
        # A flow that was there when the walk began was met, and new ones do not come to these.
        if unused := {a: token for a, token in lingering.items() if a not in in_use}:
            await self._forget(unused)

    async def _rest(self) -> None:
        """Until it is time again, or an address began to linger: mostly it has no flow at all."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._every_s
        while (left_s := end - loop.time()) > 0:
            await asyncio.sleep(min(left_s, _LOOK_S))
            if self._lingering().items() - self._walked.items():
                return

    def _steps(self, lingering: Mapping[bytes, int], in_use: set[bytes]) -> Iterator[None]:
        """The walk, cut into pieces of about a millisecond."""
        entries = 0
        for batch in self._table.batches(_BATCH):
            entries += batch.length
            if lingering:
                in_use |= self._table.destinations(batch, lingering.keys())
            past = iter(self._table.past(batch, now_ticks()))
            yield
            while some := list(islice(past, _REMOVALS)):
                now = now_ticks()
                self.removed += sum(self._table.remove_if_dead(key, now) for key in some)
                yield
        self.entries = entries


def _timed(steps: Iterator[None]) -> float | None:
    """Do one step; the processor time it took, None at the end."""
    begin = time.thread_time()
    try:
        next(steps)
    except StopIteration:
        return None
    return time.thread_time() - begin
