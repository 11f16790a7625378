# SPDX-License-Identifier: Apache-2.0
"""Executes plans on the real maps: the only code that writes them.

The order is that of the plan's fields; what it adds is the memory barrier before words are stored,
the grace period between removing hash elements and inserting others, and the one after each
replacement. It reads no plan's meaning. A refused write does not stop those after it. Long plans
let the event loop run between chunks, and grace periods pass in a thread. The caller holds the
instance's lock (``lock``) and executes one plan at a time; see ``program``.
"""

from __future__ import annotations

import asyncio
from typing import Any, AsyncIterator, Mapping, Sequence, TypeVar

from kubeproxy_bpf.dataplane import membarrier
from kubeproxy_bpf.dataplane.hashmaps import HashMap
from kubeproxy_bpf.dataplane.layout import TypeInfo
from kubeproxy_bpf.dataplane.maps import ServiceMaps
from kubeproxy_bpf.dataplane.protocol import Applied
from kubeproxy_bpf.dataplane.quarantine import Grace
from kubeproxy_bpf.dataplane.readback import HeldMaps
from kubeproxy_bpf.libbpf.abc import Map
from kubeproxy_bpf.plan.records import SourceRangeKey
from kubeproxy_bpf.plan.writes import Capacity, Dump, Failed, Plan

T = TypeVar("T")

_CHUNK = 4096


class Writer:
    """The maps of one instance, open for writing."""

    def __init__(
        self,
        maps: Mapping[str, Map],
        btf: TypeInfo,
        grace: Grace | None = None,
        packet_btf: TypeInfo | None = None,
    ) -> None:
        """Bind the maps by name (``kpb_vips`` …); raises LayoutError if the object differs.

        ``packet_btf`` describes ``kpb_source_ranges``, if that is among the maps: only the object
        of the packet path knows its structs.
        """
        self._maps = ServiceMaps(maps, btf, packet_btf)
        self.held = HeldMaps(self._maps)
        self._grace = grace or Grace()
        self._ordered = membarrier.register()
        # Someone may have removed elements right before this process began.
        self._removed_at = self._grace.mark()

    @property
    def capacity(self) -> Capacity:
        """Entries of each map."""
        return self._maps.capacity

    async def apply(self, plan: Plan) -> Applied:
        """Execute a plan in order; return what the kernel refused."""
        self._maps.counts.clear(plan.counts_cleared)
        writes = await self._write_arrays(plan)
        failed = await self._let_in(plan)
        await self._publish(plan)
        self._set_ports(plan.ports_set)
        failed += await self._insert(plan)
        failed += await self._remove(self._maps.vips, plan.vips_removed)
        failed += await self._remove(self._maps.frontends, plan.frontends_removed)
        self._set_ports(plan.ports_cleared)
        failed += await self._shut_out(plan.ranges_removed)
        return Applied(tuple(failed), writes + _count(plan) - len(failed))

    async def dump(self) -> Dump:
        """Read back all maps; at start, before anything is written."""
        return await asyncio.to_thread(self._dump)

    async def grace(self) -> None:
        """Return when no program can hold anything that it read before this call."""
        await self._grace.wait()

    def backend_peer(self, number: int) -> tuple[bytes, int]:
        """Address and port of a backend id, also of one that rests."""
        backend = self._maps.backends[number]
        return backend.address, backend.port

    def close(self) -> None:
        """Unmap; what is programmed stays."""
        self._grace.close()
        self._maps.close()

    # ---- steps of a plan ----

    async def _write_arrays(self, plan: Plan) -> int:
        maps = self._maps
        async for backends in _chunks(plan.backends):
            maps.backends.write(backends)
        async for runs in _chunks(plan.slots):
            for first, ids in runs:
                maps.slots.write(first, ids)
        async for records in _chunks(plan.records):
            maps.records.write(records)
        return len(plan.backends) + len(plan.slots) + len(plan.records)

    # A trie gives its nodes back after a grace period of its own: none of ours is needed.

    async def _let_in(self, plan: Plan) -> list[Failed]:
        failed = await self._shut_out(plan.ranges_revoked)
        if self._maps.source_ranges is not None:
            failed += await self._add(self._maps.source_ranges, plan.ranges_added)
        return failed

    async def _shut_out(self, keys: Sequence[SourceRangeKey]) -> list[Failed]:
        failed: list[Failed] = []
        if self._maps.source_ranges is not None:
            async for chunk in _chunks(keys):
                failed += self._maps.source_ranges.remove(chunk)
        return failed

    async def _publish(self, plan: Plan) -> None:
        if not plan.services:
            return
        await self._order_stores()
        async for words in _chunks(list(plan.services.items())):
            for index, service in words:
                self._maps.publish(index, service)

    async def _order_stores(self) -> None:
        """Make what words name visible before the words.

        Programs reach it through the address that the word yields, so only our side needs a
        barrier. Where the cheap one is missing a whole grace period does as well.
        """
        if not (self._ordered and membarrier.order_stores()):
            await self._grace.wait()

    def _set_ports(self, words: Mapping[int, int]) -> None:
        for number, word in words.items():
            self._maps.node_ports.store(number, word)

    async def _insert(self, plan: Plan) -> list[Failed]:
        if not plan.inserts:
            return []
        await self._free_elements_are_unread()
        maps = self._maps
        failed = await self._add(maps.frontends, plan.frontends_added)
        for entry in plan.frontends_replaced:
            failed += await self._replace(maps.frontends, [entry])
        failed += await self._add(maps.vips, plan.vips_added)
        for group in plan.vips_by_flags():
            failed += await self._replace(maps.vips, group)
        return failed

    async def _free_elements_are_unread(self) -> None:
        """Wait until no program holds an element that an insertion may be given."""
        if not self._grace.passed(self._removed_at):
            await self._grace.wait()

    async def _add(
        self, table: HashMap[Any, Any], entries: Sequence[tuple[Any, Any]]
    ) -> list[Failed]:
        failed: list[Failed] = []
        async for chunk in _chunks(entries):
            failed += table.put(chunk)
        return failed

    async def _replace(
        self, table: HashMap[Any, Any], entries: Sequence[tuple[Any, Any]]
    ) -> list[Failed]:
        """Replace entries that may be taken for each other by who reads them meanwhile."""
        failed = await self._add(table, entries)
        await self._grace.wait()
        return failed

    async def _remove(self, table: HashMap[Any, Any], keys: Sequence[Any]) -> list[Failed]:
        failed: list[Failed] = []
        async for chunk in _chunks(keys):
            failed += table.remove(chunk)
            self._removed_at = self._grace.mark()
        return failed

    # ---- reading back ----

    def _dump(self) -> Dump:
        maps = self._maps
        services = maps.published()
        named = {word.record for word in services.values() if word.record}
        records = {n: maps.records[n] for n in named if n < maps.records.max_entries}
        return Dump(
            maps.vips.read(),
            maps.frontends.read(),
            services,
            records,
            maps.slots.read(),
            dict(maps.backends.written()),
            maps.node_ports.read(),
            maps.source_ranges.read() if maps.source_ranges is not None else {},
        )


async def _chunks(items: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """Parts of a long sequence; others run between them."""
    for start in range(0, len(items), _CHUNK):
        if start:
            await asyncio.sleep(0)
        yield items[start : start + _CHUNK]


def _count(plan: Plan) -> int:
    """Writes of a plan beyond those of the arrays."""
    return (
        len(plan.services)
        + len(plan.ports_set)
        + len(plan.frontends_added)
        + len(plan.frontends_replaced)
        + len(plan.vips_added)
        + len(plan.vips_replaced)
        + len(plan.vips_removed)
        + len(plan.frontends_removed)
        + len(plan.ports_cleared)
        + len(plan.ranges_revoked)
        + len(plan.ranges_added)
        + len(plan.ranges_removed)
    )
