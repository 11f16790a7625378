# SPDX-License-Identifier: Apache-2.0
"""A dataplane in memory: executes plans, counts, fails on demand, traces what programs would do.

For tests and for asking "what would happen": it keeps the promise of ``Dataplane`` with
dictionaries instead of maps. ``dump_text`` prints the maps one line per entry; ``trace`` lives in
``dataplane.trace`` and interprets the maps, not the plan.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter
from copy import copy
from typing import Any

from kubeproxy_bpf.dataplane.protocol import Applied
from kubeproxy_bpf.dataplane.trace import Client, Verdict
from kubeproxy_bpf.dataplane.trace import dump_text as _dump_text
from kubeproxy_bpf.dataplane.trace import trace
from kubeproxy_bpf.errors import MapFull
from kubeproxy_bpf.plan.held import HeldDump
from kubeproxy_bpf.plan.records import (
    Backend,
    Frontend,
    FrontendKey,
    Record,
    Service,
    SourceRange,
    SourceRangeKey,
)
from kubeproxy_bpf.plan.writes import PORT_WORDS, Capacity, Dump, Failed, Plan, Step

DEFAULT_CAPACITY = Capacity(
    vips=65536,
    frontends=65536,
    services=32768,
    records=65536,
    slots=524288,
    backends=262144,
    source_ranges=65536,
)


class Crash(Exception):
    """The process ended between two writes."""


class FakeDataplane:
    """Maps as dictionaries.

    ``fail_at`` makes the write with that number (from 0, over the whole life) fail if it is one of
    a hash map; ``crash_at`` ends the plan before that write by raising Crash.
    """

    def __init__(self, capacity: Capacity = DEFAULT_CAPACITY) -> None:
        self.capacity = capacity
        self.vips: dict[bytes, int] = {}
        self.frontends: dict[FrontendKey, Frontend] = {}
        self.services: dict[int, Service] = {}
        self.records: dict[int, Record] = {}
        self.slots = array("I", bytes(4 * capacity.slots))
        self.backends: dict[int, Backend] = {}
        self.node_ports = array("Q", bytes(8 * PORT_WORDS))
        self.source_ranges: dict[SourceRangeKey, SourceRange] = {}
        self.counts: Counter[str] = Counter()
        """Writes by "map action"; a run of slots is one."""
        self.writes = 0
        self.graces = 0
        self.fail_at: int | None = None
        self.crash_at: int | None = None

    async def apply(self, plan: Plan) -> Applied:
        """Execute a plan in order."""
        return self.execute(plan)

    def execute(self, plan: Plan) -> Applied:
        """Execute a plan without waiting, for tests that are not asynchronous."""
        before = self.writes
        failed = [write for step in plan.steps() if (write := self.do(step)) is not None]
        return Applied(tuple(failed), self.writes - before)

    def do(self, step: Step) -> Failed | None:
        """Execute one write; return it if it was made to fail."""
        number = self.writes
        if number == self.crash_at:
            raise Crash(number)
        self.writes += 1
        self.counts[f"{step.map} {step.action}"] += 1
        if step.map in ("frontends", "vips", "source_ranges"):
            return self._do_hash(step, number == self.fail_at)
        self._store(step.map, step.key, step.value)
        return None

    async def dump(self) -> Dump:
        """Read back all maps."""
        return self.snapshot()

    def snapshot(self) -> Dump:
        """A copy of all maps."""
        return Dump._make(map(copy, self._live()))

    def _live(self) -> Dump:
        return Dump(
            self.vips,
            self.frontends,
            self.services,
            self.records,
            self.slots,
            self.backends,
            self.node_ports,
            self.source_ranges,
        )

    @property
    def held(self) -> HeldDump:
        """The maps, for reading."""
        return HeldDump(self._live())

    async def grace(self) -> None:
        """Let others run, as a real grace period does."""
        self.graces += 1
        await asyncio.sleep(0)

    def trace(self, client: Client, address: bytes, port: int, protocol: int) -> Verdict:
        """Say where a connection of this client would go, reading the maps as programs do."""
        return trace(self, client, address, port, protocol)

    def dump_text(self) -> str:
        """All entries that mean something, one sorted line each."""
        return _dump_text(self)

    def _do_hash(self, step: Step, fail: bool) -> Failed | None:
        table: dict[Any, Any] = getattr(self, step.map)
        room: int = getattr(self.capacity, step.map)
        if fail:
            return Failed(*step[:3], OSError(12, "made to fail"))
        if step.action == "delete":
            table.pop(step.key, None)
        elif step.key not in table and len(table) >= room:
            return Failed(*step[:3], MapFull(step.map, room))
        else:
            table[step.key] = step.value
        return None

    def _store(self, name: str, key: int, value: Any) -> None:
        if name == "slots":
            if key + len(value) > self.capacity.slots:
                raise IndexError(f"slots {key}..{key + len(value)}")
            self.slots[key : key + len(value)] = value
        elif name == "node_ports":
            self.node_ports[key] = value
        else:
            if not 0 < key < getattr(self.capacity, name):
                raise IndexError(f"{name} {key}")
            getattr(self, name)[key] = value
