# SPDX-License-Identifier: Apache-2.0
"""Grace periods: when is it certain that no program still holds what was removed.

The kernel reuses a hash element at once, and array entries are ours to reuse; a program that found
either just before may read it for as long as it runs. Programs run inside RCU read sections, so
after one grace period nobody does. ``membarrier`` gives one; where it is refused, updating a map of
maps does, because that call waits until programs have let go of the old inner map. What rests
meanwhile is the planner's to know. Called by the writer.
"""

from __future__ import annotations

import asyncio
import struct

from kubeproxy_bpf.dataplane import membarrier
from kubeproxy_bpf.libbpf import BpfMap, MapType


class Grace:
    """Waits for grace periods in a thread, one at a time, and shares them among those who wait."""

    def __init__(self) -> None:
        self._outer: BpfMap | None = None
        self._inner: BpfMap | None = None
        self._lock = asyncio.Lock()
        self._begun = 0
        self._ended = 0
        self.periods = 0
        """Grace periods waited for, for metrics and tests."""

    def mark(self) -> int:
        """Name this moment: ``passed`` tells whether a grace period lies behind it."""
        return self._begun

    def passed(self, mark: int) -> bool:
        """Whether a grace period began after the mark was taken and has ended."""
        return self._ended > mark

    async def wait(self) -> None:
        """Return when a grace period that began after this call has ended."""
        mark = self.mark()
        async with self._lock:
            if self.passed(mark):  # one began while this call waited for its turn
                return
            self._begun += 1
            mine = self._begun
            await asyncio.to_thread(self._block)
            self._ended = mine

    def close(self) -> None:
        """Close the maps of the other way, if it was used."""
        for owned in (self._outer, self._inner):
            if owned is not None:
                owned.close()
        self._outer = self._inner = None

    def _block(self) -> None:
        self.periods += 1
        if not membarrier.wait_for_readers():
            self._replace_inner_map()

    def _replace_inner_map(self) -> None:
        if self._outer is None or self._inner is None:
            self._inner = BpfMap.create(MapType.ARRAY, "kpb_grace_inner", 4, 4, 1)
            self._outer = BpfMap.create(
                MapType.ARRAY_OF_MAPS, "kpb_grace", 4, 4, 1, inner=self._inner
            )
        self._outer.update(bytes(4), struct.pack("=I", self._inner.fd))
