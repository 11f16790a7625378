# SPDX-License-Identifier: Apache-2.0
"""Looks now and then at what only the kernel knows: whether the hooks run, how full maps are.

Attached programs may be detached by others, or be kept from sockets by those of others; maps that
the programs fill have no count. Nothing is repaired here: it is told, in the log and in the
metrics. Owned by ``instance``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Mapping, NoReturn

import structlog

from kubeproxy_bpf.dataplane import attach
from kubeproxy_bpf.dataplane.occupancy import Occupancy
from kubeproxy_bpf.errors import DataplaneError
from kubeproxy_bpf.libbpf import BpfMap, ObjectProgram
from kubeproxy_bpf.serve.metrics_datapath import HookReading, MapReading
from kubeproxy_bpf.threads import in_thread

_log = structlog.get_logger(__name__)

_EVERY_S = 60.0
_COUNTED = ("affinity", "tcp_origin", "sock_flows", "fragments", "devices")
"""Maps that the programs fill, or nobody else keeps count of."""


class Inspection:
    """Of the programs at one cgroup and of all maps."""

    def __init__(
        self,
        programs: Mapping[str, ObjectProgram],
        cgroup: Path,
        maps: Mapping[str, BpfMap],
        every_s: float = _EVERY_S,
    ) -> None:
        self._programs = programs
        self._cgroup = cgroup
        self._every_s = every_s
        self._occupancy = Occupancy(
            {name: maps[f"kpb_{name}"] for name in _COUNTED if f"kpb_{name}" in maps}
        )
        self.hooks = HookReading()

    @property
    def maps(self) -> dict[str, MapReading]:
        """How full the maps were when they were last counted."""
        return {name: MapReading(*found) for name, found in self._occupancy.readings.items()}

    def attached(self, proved: bool) -> None:
        """The programs are attached; ``proved``: and translated the connection of a test."""
        self.hooks = self.hooks._replace(proved=proved)

    def look_at_hooks(self) -> None:
        """See which programs run for the sockets of the cgroup; blocks."""
        inactive = tuple(attach.inactive(self._programs, self._cgroup))
        if inactive != self.hooks.inactive:
            if inactive:
                _log.error("hooks_inactive", hooks=inactive, cgroup=str(self._cgroup))
            else:
                _log.info("hooks_active_again", cgroup=str(self._cgroup))
        active = tuple(sorted(self._programs.keys() - set(inactive)))
        self.hooks = HookReading(active, inactive, self.hooks.proved)

    async def run(self, at_work: asyncio.Event) -> NoReturn:
        """Look for ever, from when the programs are at work."""
        await at_work.wait()
        while True:
            await self._occupancy.walk()
            await asyncio.sleep(self._every_s)
            try:
                await in_thread(self.look_at_hooks)
            except (DataplaneError, OSError) as error:
                _log.warning("hooks_not_looked_at", error=str(error))
