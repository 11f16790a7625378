# SPDX-License-Identifier: Apache-2.0
"""The audit of one proxy: maps and hooks, each in its own rhythm. Made and run by ``app``."""

from __future__ import annotations

import asyncio
from typing import Callable, NoReturn

from kubeproxy_bpf.audit.hooks import HookAudit
from kubeproxy_bpf.audit.maps import MapAudit
from kubeproxy_bpf.audit.meters import AuditMeters
from kubeproxy_bpf.dataplane.program import Programmer
from kubeproxy_bpf.instance import Instance


class SelfAudit:
    """``period_s`` 0 switches it off."""

    def __init__(
        self,
        instance: Instance,
        programmer: Programmer,
        period_s: float,
        meters: AuditMeters,
        fault: Callable[[str], None],
    ) -> None:
        self._instance = instance
        self._period_s = period_s
        self._maps = MapAudit(programmer, period_s, meters)
        self._hooks = HookAudit(instance, period_s, meters, fault)

    async def run(self) -> NoReturn:
        """Look for ever, from when the programs are at work."""
        await self._instance.at_work.wait()
        if self._period_s:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._maps.run())
                tasks.create_task(self._hooks.run())
        await asyncio.Event().wait()
        raise AssertionError("nobody sets this event")
