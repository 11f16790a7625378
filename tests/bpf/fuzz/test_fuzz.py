# SPDX-License-Identifier: Apache-2.0
"""Packets that no host would send, by the hundred thousand: the same ones in each run.

The programs choose backends and ports by chance, so the flows are not the same. ``--long`` runs
millions, from another seed each time, which is printed.
"""

from __future__ import annotations

import secrets
from random import Random

import pytest

from tests.bpf.packet.world import PacketWorld

from .canary import Canary, canaries
from .driver import Trial
from .judge import Judge
from .kernel_log import KernelLog
from .scene import Fire, Placed
from .table import assert_sane

pytestmark = pytest.mark.root

SEED = 20262
BATCH = 10_000
"""Each packet of it passes two programs or three."""
BATCHES, BATCHES_LONG = 10, 80


def fire(shots: Fire, dice: Random, placed: Placed, judge: Judge) -> None:
    """One batch."""
    at: dict[str, list[Trial]] = {}
    for (_, device), trial in placed.items():
        at.setdefault(device, []).append(trial)
    places = list(at.items())
    for _ in range(BATCH):
        device, programs = dice.choice(places)
        sent = shots.shot(device, programs[0].header)
        for trial in programs:
            out = trial.run(sent)
            if out is not None:
                judge.look(trial, sent, out)


@pytest.mark.timeout(1200)
def test_nothing_but_what_a_flow_asks_for(placed: Placed, world: PacketWorld, long: bool) -> None:
    """Whatever comes: known verdicts, right sums, a sane table, and live flows that go on."""
    seed = secrets.randbits(32) if long else SEED
    print(f"seed {seed}")
    dice, judge = Random(seed), Judge(world)
    shots = Fire(dice)
    living: list[Canary] = canaries(placed, world)
    with KernelLog() as log:
        for _ in range(BATCHES_LONG if long else BATCHES):
            fire(shots, dice, placed, judge)
            for canary in living:
                canary.goes_on()
            shots.aim(assert_sane(world))
            judge.account()
    run = sum(trial.run_count for trial in placed.values())
    refused = sum(trial.refused for trial in placed.values())
    print(f"{run} packets run, {refused} that the kernel refuses to try; {dict(judge.seen)}")
    print({name: number for name, number in world.counted().items()})
    assert not log.complaints
    assert judge.seen["rewritten"] > run / 50
    assert judge.seen["answered"] > run / 200
    assert run > BATCH
