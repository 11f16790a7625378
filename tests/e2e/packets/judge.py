# SPDX-License-Identifier: Apache-2.0
"""Runs a row of the table in a world and says what is not as the table says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Sequence

from tests.e2e.packets.asking import SILENCE_S, TIMEOUT_S, Told, told_by
from tests.e2e.packets.table import Outcome, Place, Row, Source, Via
from tests.e2e.packets.world import World

TIMES = 60
"""Exchanges per row at most: one of four backends stays unseen once in ten million runs."""


def judge(row: Row, world: World) -> None:
    """Exactly the expected ones answer and see the expected peer, by all protocols and families."""
    wrong = faults(row, world)
    assert not wrong, wrong


def judge_all(rows: Sequence[Row], world: World) -> None:
    """The same of many rows at once: for those that spend their time with waiting."""
    with ThreadPoolExecutor(len(rows)) as pool:
        found = pool.map(partial(faults, world=world), rows)
    wrong = {str(row): each for row, each in zip(rows, found) if each}
    assert not wrong, wrong


def faults(row: Row, world: World) -> str:
    """What is not as the row says."""
    failing = isinstance(row.expected, Outcome)
    timeout_s = SILENCE_S if row.expected is Outcome.SILENCE else TIMEOUT_S
    names = () if isinstance(row.expected, Outcome) else row.expected
    function = partial(told_by, world.targets(row), 1 if failing else TIMES, timeout_s, names)
    asked = "node2" if row.via is Via.NODE2 else "node1"
    wanted = expected(row, asked, world)
    wrong = []
    for target, told_by_target in world.run(row.place, function).items():
        seen = {world.named(row.place, asked, told) for told in told_by_target}
        if seen != wanted:
            wrong.append(f"{target.protocol} {target.address} {target.port}: {_text(seen)}")
    return "\n".join((f"expected {_text(wanted)}", *wrong)) if wrong else ""


def _text(told: set[Told]) -> str:
    return ", ".join(sorted(" ".join(each) for each in told))


def expected(row: Row, asked: str, world: World) -> set[Told]:
    """What a row means in a world."""
    if isinstance(row.expected, Outcome):
        return {Told(row.expected.value)}
    return {
        Told(name, _kept(row, name, world) if _keeps(row, name, asked, world) else asked)
        for name in row.expected
    }


def _keeps(row: Row, name: str, asked: str, world: World) -> bool:
    """Whether a backend sees the sender's own address."""
    if name == asked and row.place is not Place.HOST:
        # It is in the network of the host itself: no node's address may come in from outside.
        return True
    if row.source is Source.LOCAL_KEPT:
        local = {pod.name for pod in world.layout.pods_of(asked)}
        return name in local and world.preserving
    return row.source is Source.KEPT


def _kept(row: Row, name: str, world: World) -> str:
    """The sender's own address, as it looks after the sender's node."""
    from_host = row.place in (Place.HOST, Place.HOOKED_HOST)
    from_pod = row.place in (Place.POD, Place.HOOKED_POD, Place.SERVER)
    # A CNI hides pods from what is no pod: the other node, whether it was asked or answers.
    leaves = row.via is Via.NODE2 or name == "node2"
    return "node1" if from_host or (from_pod and leaves and world.strict) else "own"
