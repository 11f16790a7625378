# SPDX-License-Identifier: Apache-2.0
"""When hooks count as dead, when they are tried again, and what of it health and metrics hear."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from kubeproxy_bpf.audit import hooks as module
from kubeproxy_bpf.audit.hooks import HookAudit
from kubeproxy_bpf.audit.meters import AuditMeters
from kubeproxy_bpf.audit.upkeep import PutBack
from kubeproxy_bpf.dataplane.canary import HooksDead
from kubeproxy_bpf.dataplane.cgrouproot import Judgement, Soundness
from kubeproxy_bpf.errors import UnsupportedKernel

DEAD = HooksDead("socket hooks", "they do not run")
NOT_TRIED = UnsupportedKernel("proof", "no process in the cgroup")
SOUND = Judgement(Soundness.SOUND, "it is the root")
WRONG = Judgement(Soundness.WRONG, "all pods are outside of it")


class FakeInstance:
    """Answers as the test says; ``answers`` are those of the proofs, one after the other."""

    def __init__(self) -> None:
        self.answers: list[Exception | None] = []
        self.proofs = 0
        self.proved: bool | None = True
        self.put_back: PutBack | Exception = PutBack()
        self.looks = 0
        self.packets = None
        self.cgroup = Path("/cgroup")
        self.inspection = SimpleNamespace(look_at_hooks=lambda: None)
        self.upkeep: Any = SimpleNamespace(put_back=self._put_back, pins_missing=3)

    def prove(self) -> None:
        self.proofs += 1
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            self.proved = False if isinstance(answer, HooksDead) else self.proved
            raise answer
        self.proved = True

    def verdicts(self) -> dict[str, int]:
        return {"other_netns": 1}

    def _put_back(self) -> PutBack:
        self.looks += 1
        if isinstance(self.put_back, Exception):
            raise self.put_back
        return self.put_back


class Audited:
    """An audit, with its root judged as the test says and faults as health would hear them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.instance = FakeInstance()
        self.meters = AuditMeters()
        self.faults: list[str] = []
        self.root = SOUND
        self.now = 1000.0
        monkeypatch.setattr(module, "judge", lambda cgroup, traffic: self.root)
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        instance: Any = self.instance
        self.audit = HookAudit(instance, 60, self.meters, self.faults.append)

    async def look(self) -> list[str]:
        with structlog.testing.capture_logs() as logged:
            await self.audit.look()
        return [each["event"] for each in logged]


@pytest.fixture
def audited(monkeypatch: pytest.MonkeyPatch) -> Audited:
    return Audited(monkeypatch)


async def test_hooks_that_were_proved_are_proved_again_once_a_period(audited: Audited) -> None:
    """A child process each ten seconds would be a waste."""
    assert await audited.look() == ["cgroup_root_sound"]
    assert await audited.look() == []
    assert audited.instance.proofs == 0
    audited.now += 61
    await audited.look()
    await audited.look()
    assert audited.instance.proofs == 1
    assert set(audited.faults) == {""}


async def test_hooks_are_tried_until_they_are_proved(audited: Audited) -> None:
    """At each look, and not again afterwards."""
    audited.instance.proved = None
    audited.instance.answers = [NOT_TRIED, NOT_TRIED, None]
    for _ in range(5):
        await audited.look()
    assert audited.instance.proofs == 3


async def test_dead_is_what_failed_twice(audited: Audited) -> None:
    """Once may be a moment between two programs; said once, and once that it is over."""
    audited.instance.proved = False
    audited.instance.answers = [DEAD, None]
    assert "hooks_dead" not in await audited.look()
    assert audited.instance.looks == 2, "something may have been detached right after the first"
    assert audited.faults == [""]
    audited.instance.proved = False
    audited.instance.answers = [DEAD, DEAD, DEAD, DEAD]
    assert await audited.look() == ["hooks_dead"]
    assert await audited.look() == []
    assert "they do not run" in audited.faults[-1]
    assert await audited.look() == ["hooks_alive_again"]
    assert audited.faults[-1] == ""


async def test_a_proof_that_could_not_be_made_kills_nobody(audited: Audited) -> None:
    """Hooks that were dead stay so, others stay alive."""
    audited.instance.proved = None
    audited.instance.answers = [NOT_TRIED]
    assert "hooks_not_proved" in await audited.look()
    assert audited.faults == [""]
    audited.instance.proved = False
    audited.instance.answers = [DEAD, DEAD, NOT_TRIED]
    await audited.look()
    await audited.look()
    assert audited.faults[-1] != ""


async def test_what_was_put_back_is_counted_and_proved(audited: Audited) -> None:
    """Programs that were attached anew have to show that they run."""
    audited.instance.put_back = PutBack(hooks=2, pins=5)
    await audited.look()
    assert audited.instance.proofs == 1
    assert audited.meters.put_back.values == {("hook",): 2, ("pin",): 5}
    assert audited.meters.pins_missing.values == {(): 3}


async def test_what_cannot_be_looked_at_ends_nothing(audited: Audited) -> None:
    """The cgroup may be gone, or the kernel out of memory."""
    for error in (UnsupportedKernel("cgroup v2", "is gone"), OSError(errno.ENOMEM, "no memory")):
        audited.instance.put_back = error
        assert "hooks_not_looked_at" in await audited.look()
        assert "hooks_not_looked_at" not in await audited.look(), "it is told once"


async def test_a_cgroup_that_cannot_be_judged_ends_nothing(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries have exceptions of their own for a process that ended meanwhile."""

    def unforeseen(cgroup: Path, traffic: object) -> Judgement:
        raise KeyError("nsid")

    monkeypatch.setattr(module, "judge", unforeseen)
    assert await audited.look() == ["cgroup_root_unknown"]
    assert audited.faults == [""]


async def test_a_doubtful_cgroup_is_no_reason_to_be_unhealthy(audited: Audited) -> None:
    """Pods that are silent are no proof: a warning and a metric."""
    audited.root = Judgement(Soundness.DOUBTFUL, "no socket of pods passed")
    assert await audited.look() == ["cgroup_root_doubtful"]
    assert audited.faults[-1] == "" and audited.meters.cgroup_sound.values == {(): 0}


async def test_a_wrong_cgroup_is_told_to_health_and_metrics(audited: Audited) -> None:
    """Until it is right; a changed reason alone is no news."""
    audited.root = WRONG
    assert await audited.look() == ["cgroup_root_wrong"]
    audited.root = WRONG._replace(reason="others")
    assert await audited.look() == []
    assert audited.faults[-1] == "wrong cgroup: others"
    assert audited.meters.cgroup_sound.values == {(): 0}
    audited.root = SOUND
    assert await audited.look() == ["cgroup_root_sound"]
    assert audited.faults[-1] == "" and audited.meters.cgroup_sound.values == {(): 1}
