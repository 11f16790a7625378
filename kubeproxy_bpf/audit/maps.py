# SPDX-License-Identifier: Apache-2.0
"""Compares the maps with what was programmed, now and then, and repairs what differs.

What differs is named by its service port, counted and repaired; how, is decided by ``plan.audit``
and the planner. Where nothing differs it only reads. Run by ``app``, from when the maps are filled.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Callable, NoReturn, Sequence

import structlog

from kubeproxy_bpf.audit.meters import AuditMeters
from kubeproxy_bpf.dataplane.program import FINDINGS_MAX, Programmer
from kubeproxy_bpf.libbpf import LibbpfError
from kubeproxy_bpf.model.addresses import format_address
from kubeproxy_bpf.plan.findings import Finding
from kubeproxy_bpf.plan.records import FrontendKey

_log = structlog.get_logger(__name__)

_NAMED_MAX = 20
"""Findings of one run that are logged one by one; the others are counted."""


class MapAudit:
    """Of the maps of one programmer."""

    def __init__(
        self,
        programmer: Programmer,
        period_s: float,
        meters: AuditMeters | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._programmer = programmer
        self._period_s = period_s
        self._meters = meters or AuditMeters()
        self._wall = wall
        self._mended = False
        """Whether the last look repaired anything."""

    async def run(self) -> NoReturn:
        """Look for ever."""
        while True:
            await asyncio.sleep(self._period_s)
            await self.look_at_all()

    async def look_at_all(self) -> None:
        """An emptied map is more than one look takes on; what cannot be repaired waits."""
        while len(await self.look()) >= FINDINGS_MAX and self._mended:
            pass

    async def look(self) -> list[Finding]:
        """Compare and repair once; return what differed."""
        begin = time.monotonic()
        try:
            found = await self._programmer.audit()
        except LibbpfError as error:
            _log.error("maps_not_compared", error=str(error))
            return []
        if found:
            await self._repair(found)
        meters = self._meters
        meters.runs.inc()
        meters.last_run.set(self._wall())
        meters.duration.observe(time.monotonic() - begin)
        return found

    async def _repair(self, found: Sequence[Finding]) -> None:
        for finding in found:
            self._meters.differences.inc(finding.map, finding.kind.value)
        for finding in found[:_NAMED_MAX]:
            _log.error("map_differs", **_named(finding))
        remaining = await self._programmer.repair(found)
        repaired = Counter((f.map, f.kind.value) for f in found)
        repaired.subtract((f.map, f.kind.value) for f in remaining)
        self._mended = len(remaining) < len(found)
        for labels, count in repaired.items():
            if count > 0:
                self._meters.repaired.inc(*labels, by=count)
        _log.warning("maps_repaired", differences=len(found), remaining=len(remaining))
        for finding in remaining[:_NAMED_MAX]:
            _log.error("map_not_repaired", **_named(finding))


def _named(finding: Finding) -> dict[str, str]:
    owner = str(finding.owner) if finding.owner is not None else "unknown"
    return {
        "map": finding.map,
        "key": _text(finding.key),
        "kind": finding.kind.value,
        "service_port": owner,
    }


def _text(key: object) -> str:
    if isinstance(key, FrontendKey):
        return f"{format_address(key.address)} port {key.port} protocol {key.protocol}"
    return format_address(key) if isinstance(key, bytes) else str(key)
