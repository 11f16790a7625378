# SPDX-License-Identifier: Apache-2.0
"""The host's part of a running proxy, in one object for ``app``.

``prepare`` is done before anything is programmed [K7]; ``note`` and ``synced`` follow the syncs,
``run`` keeps what others may undo.
"""

from __future__ import annotations

import asyncio
from functools import partial

from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.host.conntrack import ConntrackCleanup
from kubeproxy_bpf.host.forward import ForwardAccept
from kubeproxy_bpf.host.oom import set_oom_score
from kubeproxy_bpf.host.sysctls import Kept, apply_conntrack
from kubeproxy_bpf.meters import ConntrackMeters
from kubeproxy_bpf.threads import in_thread


class HostState:
    """Sysctls, OOM score, entries of connection tracking, and the rules of FORWARD."""

    def __init__(self, config: Config, meters: ConntrackMeters) -> None:
        self._config = config
        self._forward = ForwardAccept(
            config.forward_accept, 1 << config.masquerade_bit, config.sync_period_s
        )
        self.conntrack = ConntrackCleanup(retry_s=config.sync_period_s, meters=meters)
        self.kept: list[Kept] = []
        """Sysctls that could not be set, and did not have to."""
        self.forward_mark = 0
        """What programs mark packets with that FORWARD shall accept; 0: nothing."""

    async def prepare(self) -> None:
        """Set what is set once.

        Raises:
            SysctlRefused: something that was asked for cannot be.
        """
        self.kept = await in_thread(
            partial(apply_conntrack, self._config.conntrack_sysctls, serve_anyway=True)
        )
        set_oom_score(self._config.oom_score_adj)
        self.forward_mark = await in_thread(self._forward.start)

    async def run(self) -> None:
        """Clean connection tracking, and keep the rules; runs for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.conntrack.run())
            tasks.create_task(self._forward.run())
