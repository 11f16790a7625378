# SPDX-License-Identifier: Apache-2.0
"""Packets that no host would send, by the hundred thousand: the same ones in each run.

``--long`` runs millions, from another seed each time, which is printed.
"""

from __future__ import annotations

import secrets
import time
from random import Random
from typing import Iterator

import pytest

from kubeproxy_bpf.dataplane.loader import Datapath
from tests.bpf.packet.node import MAC, Node
from tests.bpf.packet.world import PacketWorld

from .canary import Canary, canaries
from .conftest import SETTINGS
from .corpus import corpus
from .craft import frame
from .driver import UNSPEC, Trial
from .judge import Judge
from .kernel_log import KernelLog
from .scene import Fire, serve, trials
from .table import assert_sane

pytestmark = pytest.mark.root

SEED = 20262
BATCH = 20_000
BOUNDED_BATCHES = 8
LONG_S = 85
"""For each of the settings."""
Placed = dict[tuple[str, str], Trial]


@pytest.fixture
def world(datapath: Datapath, node: Node) -> PacketWorld:
    made = PacketWorld(datapath, node.ifindex)
    made.prepare()
    serve(made)
    return made


@pytest.fixture
def placed(datapath: Datapath, node: Node, world: PacketWorld) -> Iterator[Placed]:
    """All programs at all devices; the test runs inside of the node."""
    with node.inside():
        yield trials(datapath, node)


def batches(long: bool) -> Iterator[int]:
    """Numbers of batches, as many as the run is to have."""
    end = time.monotonic() + LONG_S
    number = 0
    while time.monotonic() < end if long else number < BOUNDED_BATCHES:
        yield number
        number += 1


def fire(shots: Fire, dice: Random, placed: Placed, judge: Judge) -> None:
    """One batch."""
    places = list(placed.items())
    for _ in range(BATCH):
        (_, device), trial = dice.choice(places)
        sent = shots.shot(trial, device)
        out = trial.run(sent)
        if out is not None:
            judge.look(trial, sent, out)


@pytest.mark.timeout(600)
def test_nothing_but_what_a_flow_asks_for(
    placed: Placed, world: PacketWorld, long: bool, record_property: object
) -> None:
    """Whatever comes: known verdicts, right sums, a sane table, and live flows that go on."""
    seed = secrets.randbits(32) if long else SEED
    print(f"seed {seed}")
    dice, judge = Random(seed), Judge(world)
    shots = Fire(dice)
    living: list[Canary] = canaries(placed, world)
    with KernelLog() as log:
        for _ in batches(long):
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
