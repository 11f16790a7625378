# SPDX-License-Identifier: Apache-2.0
"""Counts the entries of maps that the programs fill by themselves, in the background.

The kernel does not tell how full a hash map is, and a walk of a large one takes tens of
milliseconds: so it is done now and then, in small steps with long rests. Nothing depends on it but
the metrics. Called by ``inspection``.
"""

from __future__ import annotations

import asyncio
import time
from typing import Iterator, Mapping

import structlog

from kubeproxy_bpf.libbpf import BpfMap, LibbpfError
from kubeproxy_bpf.threads import in_thread

_log = structlog.get_logger(__name__)

_BATCH = 1024
_REST = 99
"""Times as long as a step took: no more than one per cent of a processor."""
_REST_MIN_S = 0.01


class Occupancy:
    """How many entries each map had when it was last walked."""

    def __init__(self, maps: Mapping[str, BpfMap]) -> None:
        self._maps = maps
        self._counts: dict[str, int] = {}

    @property
    def readings(self) -> dict[str, tuple[int | None, int]]:
        """Entries and capacity by name; None where a map was not walked yet."""
        return {
            name: (self._counts.get(name), found.max_entries) for name, found in self._maps.items()
        }

    async def walk(self) -> None:
        """Count all maps once."""
        for name, counted in self._maps.items():
            try:
                self._counts[name] = await _count(counted)
            except LibbpfError as error:
                _log.warning("map_not_counted", map=name, error=str(error))


async def _count(counted: BpfMap) -> int:
    total = 0
    steps = counted.batches(_BATCH)
    while (step := await in_thread(lambda: _timed(steps))) is not None:
        count, used_s = step
        total += count
        await asyncio.sleep(max(used_s * _REST, _REST_MIN_S))
    return total


def _timed(steps: Iterator[tuple[bytes, bytes, int]]) -> tuple[int, float] | None:
    """Entries of one step and the processor time that it took; None at the end."""
    begin = time.thread_time()
    step = next(steps, None)
    return None if step is None else (step[2], time.thread_time() - begin)
