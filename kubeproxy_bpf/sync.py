# SPDX-License-Identifier: Apache-2.0
"""The loop between model and dataplane: wake, take what changed, program it, repeat what failed.

Two promises: (1) the first change after an idle time is programmed at once, and at least
``min_interval_s`` lies between the end of one sync and the start of the next [K10]; (2) whatever
the kernel refused is tried again after ``retry_s`` at the latest [K11]. What found no room is tried
again by the programmer itself, as soon as room appears. It decides nothing about Services; the
model and the planner do. ``app`` runs it and wakes it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Awaitable, Callable, Mapping
from typing import Protocol as Interface
from typing import Sequence

import structlog

from kubeproxy_bpf.dataplane.program import Outcome
from kubeproxy_bpf.excerpt import excerpt
from kubeproxy_bpf.meters import SyncMeters
from kubeproxy_bpf.model.addresses import format_address
from kubeproxy_bpf.model.cluster import Step
from kubeproxy_bpf.model.types import Changes, Problem, Protocol, ServicePortId

_log = structlog.get_logger(__name__)


class Model(Interface):
    """The part of ClusterModel that the loop needs."""

    @property
    def has_changes(self) -> bool: ...

    def take(self) -> Step: ...


class Programmer(Interface):
    """The part of ``dataplane.program.Programmer`` that the loop needs."""

    async def apply(self, changes: Changes = ...) -> Outcome: ...


class SyncLoop:
    """Runs until cancelled. ``wake`` may be called at any time from the same event loop."""

    def __init__(
        self,
        model: Model,
        programmer: Programmer,
        *,
        min_interval_s: float,
        retry_s: float,
        before: Callable[[], Awaitable[None]] | None = None,
        on_taken: Callable[[Step], None] = lambda step: None,
        on_finished: Callable[[], Awaitable[None]],
        on_udp_changed: Callable[[], None] = lambda: None,
        on_unfit: Callable[[ServicePortId, str], None] = lambda port, full_map: None,
        meters: SyncMeters | None = None,
    ) -> None:
        """``before`` ends before what is known by then is taken and programmed."""
        self._model = model
        self._programmer = programmer
        self._min_interval_s = min_interval_s
        self._retry_s = retry_s
        self._before = before
        self._on_taken = on_taken
        self._on_finished = on_finished
        self._on_udp_changed = on_udp_changed
        self._on_unfit = on_unfit
        self._meters = meters or SyncMeters(())
        self._woken = asyncio.Event()
        self._failed = False
        self._unfinished = False
        self._retry: asyncio.TimerHandle | None = None
        self.unfit: dict[ServicePortId, str] = {}
        """Service ports without room, and the map that is full."""
        self._unreached: Mapping[bytes, list[ServicePortId]] = {}

    def wake(self) -> None:
        """Something changed: sync as soon as the intervals allow."""
        self._meters.queued()
        self._woken.set()

    async def run(self) -> None:
        """Sync for ever."""
        self._meters.queued()
        try:
            while True:
                await self._woken.wait()
                self._woken.clear()
                if self._model.has_changes or self._failed:
                    await self._sync()
                    await asyncio.sleep(self._min_interval_s)
                elif self._unfinished:
                    await self._finish()
        finally:
            self._cancel_retry()

    def note(self, outcome: Outcome) -> None:
        """Take in what became of a plan, also of one that ran in the background."""
        _report_failures(outcome)
        for write in outcome.failed:
            self._meters.refused.inc(write.map)
        self._meters.addresses_unfit.set(len(outcome.vips_unfit))
        self._report_room(outcome)
        self._failed = bool(outcome.failed)
        self._cancel_retry()
        if self._failed:
            self._retry = asyncio.get_running_loop().call_later(self._retry_s, self.wake)
        elif self._unfinished:
            # The background repeated what had been refused: the sync is finished after all.
            self.wake()

    def _report_room(self, outcome: Outcome) -> None:
        """Each service port that finds no room is named once, and once when it does."""
        unfit = dict(outcome.unfit)
        for port, map_name in unfit.items():
            if self.unfit.get(port) != map_name:
                _log.error("service_port_unfit", service_port=str(port), full_map=map_name)
                self._on_unfit(port, map_name)
        for port in self.unfit.keys() - unfit.keys():
            _log.info("service_port_fits_again", service_port=str(port))
        self.unfit = unfit
        self._report_addresses(outcome)

    def _report_addresses(self, outcome: Outcome) -> None:
        """Each address that finds no room is named once, and whom it was to lead to."""
        unreached: dict[bytes, list[ServicePortId]] = {a: [] for a in outcome.vips_unfit}
        for address, port in outcome.unreached:
            unreached[address].append(port)
        for address in unreached.keys() - self._unreached.keys():
            ports = unreached[address]
            names = sorted(map(str, ports))
            text = format_address(address)
            _log.error("vip_unfit", address=text, service_ports=names, full_map="vips")
            for port in ports:
                self._on_unfit(port, "vips")
        for address in self._unreached.keys() - unreached.keys():
            _log.info("vip_fits_again", address=format_address(address))
        self._unreached = unreached

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    async def _sync(self) -> None:
        if self._before is not None:
            await self._before()
        begin = time.monotonic()
        self._meters.begun()
        step = self._model.take()
        self._on_taken(step)
        _report(step.problems)
        outcome = await self._programmer.apply(step.changes)
        if any(port.protocol == Protocol.UDP for port in step.changes.services):
            # Also when endpoints only come: sockets may hold on to those of an earlier time,
            # which nothing told to leave while there was no other [J1, J3, J5].
            self._on_udp_changed()
        took_s = time.monotonic() - begin
        self._meters.ended(step.changes, took_s)
        took_ms = round(took_s * 1e3, 3)
        counts = {"service_ports": len(step.changes.services), "writes": outcome.writes}
        if step.changes.complete:
            _log.info("first_sync_finished", **counts, took_ms=took_ms)
        else:
            _log.debug("sync_finished", **counts, took_ms=took_ms)
        self._unfinished = True
        if not self._failed:
            await self._finish()

    async def _finish(self) -> None:
        """All that was taken is programmed."""
        await self._on_finished()
        self._meters.finished()
        self._unfinished = False


def _report_failures(outcome: Outcome) -> None:
    for write in outcome.failed:
        _log.error("write_refused", map=write.map, key=_text(write.key), error=str(write.error))


def _report(problems: Sequence[Problem]) -> None:
    for problem in problems:
        log, event = (
            (_log.info, "object_note") if problem.note else (_log.warning, "object_problem")
        )
        log(
            event,
            kind=problem.kind,
            object=excerpt(f"{problem.namespace}/{problem.name}"),
            field=problem.field,
            problem=problem.message,
        )


def _text(key: object) -> str:
    return key.hex() if isinstance(key, bytes) else str(key)
