# SPDX-License-Identifier: Apache-2.0
"""Looks after the programs at the hooks: attached, pinned, proved to run, and at the right cgroup.

Each look costs some system calls. The proof is a child process, so it is made at the start, every
ten seconds until it succeeds, whenever something had to be attached anew, and once a period. What
is wrong is logged when it changes, shown as metrics, and told to the health server if it is proved:
hooks that a connection passed untranslated, or a cgroup that no pod belongs to. Run by ``app``.
"""

from __future__ import annotations

import asyncio
from subprocess import SubprocessError
from time import monotonic
from typing import Callable, NoReturn

import structlog

from kubeproxy_bpf.audit.meters import AuditMeters
from kubeproxy_bpf.dataplane.canary import HooksDead
from kubeproxy_bpf.dataplane.cgrouproot import Judgement, Soundness, Traffic, judge
from kubeproxy_bpf.errors import DataplaneError
from kubeproxy_bpf.instance import Instance
from kubeproxy_bpf.threads import in_thread

_log = structlog.get_logger(__name__)

_LOOK_S = 10.0
_FIRST_LOOKS_S = 4.0
"""A wrong cgroup is to be known ten seconds after the start."""
_UNSOUND_AFTER = 2
"""Looks that a pod has to connect to something."""


class HookAudit:
    """Of one instance."""

    def __init__(
        self,
        instance: Instance,
        period_s: float,
        meters: AuditMeters,
        fault: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """``fault`` is told why the hooks are known to be useless; empty: they are not."""
        self._instance = instance
        self._period_s = period_s
        self._meters = meters
        self._fault = fault
        self._looks = 0
        self._proof_due = monotonic() + period_s
        self._dead = ""
        self._untried = ""
        self._unseen = ""
        self._root: Judgement | None = None

    async def run(self) -> NoReturn:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(min(self._period_s, self._pause_s))

    @property
    def _pause_s(self) -> float:
        return _FIRST_LOOKS_S if self._looks <= _UNSOUND_AFTER else _LOOK_S

    async def look(self) -> None:
        """Put back what is gone, prove the hooks if that is due, judge the cgroup."""
        self._looks += 1
        changed = await in_thread(self._put_back)
        if changed or self._instance.proved is not True or monotonic() >= self._proof_due:
            await in_thread(self._prove)
        try:
            root = await in_thread(self._judge_root)
        except Exception as error:  # whatever a library makes of processes that come and go
            root = Judgement(Soundness.UNKNOWN, str(error) or type(error).__name__)
        if self._root is None or root.soundness is not self._root.soundness:
            self._tell_root(root)
        self._root = root
        unsound = root.soundness is Soundness.WRONG
        doubtful = root.soundness is Soundness.DOUBTFUL
        self._meters.cgroup_sound.set(float(not (unsound or doubtful)))
        self._meters.pins_missing.set(self._instance.upkeep.pins_missing)
        self._fault(self._dead or (f"wrong cgroup: {root.reason}" if unsound else ""))

    def _put_back(self) -> bool:
        try:
            done = self._instance.upkeep.put_back()
            assert self._instance.inspection is not None
            self._instance.inspection.look_at_hooks()
        except (DataplaneError, OSError) as error:
            if str(error) != self._unseen:
                self._unseen = str(error)
                _log.error("hooks_not_looked_at", error=self._unseen)
            return False
        self._unseen = ""
        if done.hooks:
            self._meters.put_back.inc("hook", by=done.hooks)
        if done.pins:
            self._meters.put_back.inc("pin", by=done.pins)
        return bool(done.hooks)

    def _prove(self) -> None:
        """Twice before the hooks are called dead: they may just have been detached."""
        for last in (False, True):
            try:
                self._instance.prove()
            except HooksDead as error:
                if last:
                    self._proved(False, str(error))
                else:
                    self._put_back()
            except (DataplaneError, OSError, SubprocessError, ValueError) as error:
                # What could not be tried is as it was.
                if str(error) != self._untried:
                    self._untried = str(error)
                    _log.warning("hooks_not_proved", error=self._untried)
                return
            else:
                self._proved(True, "")
                return

    def _proved(self, alive: bool, why: str) -> None:
        self._proof_due = monotonic() + self._period_s
        self._untried = ""
        if why != self._dead:
            if why:
                _log.error("hooks_dead", error=why)
            else:
                _log.info("hooks_alive_again")
        self._dead = why

    def _judge_root(self) -> Judgement:
        instance = self._instance
        pods = instance.packets.pods if instance.packets is not None else 0
        traffic = Traffic(
            pods, instance.verdicts().get("other_netns", 0), self._looks >= _UNSOUND_AFTER
        )
        return judge(instance.cgroup, traffic)

    def _tell_root(self, root: Judgement) -> None:
        levels = {
            Soundness.SOUND: _log.info,
            Soundness.WRONG: _log.error,
            Soundness.DOUBTFUL: _log.warning,
            Soundness.UNKNOWN: _log.warning,
        }
        levels[root.soundness](
            f"cgroup_root_{root.soundness.value}",
            cgroup=str(self._instance.cgroup),
            reason=root.reason,
        )
