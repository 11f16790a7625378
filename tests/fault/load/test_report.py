# SPDX-License-Identifier: Apache-2.0
"""What a report makes of what a generator tells: times, sets, and who is to blame."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fault.load.report import Backends, LoadNotThere, Report

BEGUN, ENDED = 100.0, 110.0


def told(**seen: Any) -> dict[str, Any]:
    """A generator that offered enough for ten seconds, and saw nothing unusual but this."""
    usual: dict[str, Any] = {
        "begun": BEGUN,
        "ended": ENDED,
        "cpu_s": 1.0,
        "held": 60,
        "held_exchanges": 500,
        "longest_gap_s": 0.1,
        "tried": {"tcp": 5000, "udp": 1000},
        "failed": {},
        "failures": [],
        "answers": {"a": {"1000": 6000}},
        "held_answers": {},
        "slow": [],
        "held_lost": [],
        "held_moved": [],
    }
    return {**usual, **seen}


def report(backends: Backends, **seen: Any) -> Report:
    made = Report("scenario")
    made.take("source", told(**seen), backends)
    return made


@pytest.fixture
def change() -> Backends:
    """a and b until 103; on the way to b and c until 105."""
    backends = Backends()
    backends.set({"a", "b"}, 0.0)
    backends.set({"a", "b", "c"}, 103.0, must={"b"})
    backends.set({"b", "c"}, 105.0)
    return backends


def answered(name: str, when: float) -> dict[str, Any]:
    return {"answers": {name: {str(int(when * 10)): 1}}}


@pytest.mark.parametrize(
    "name, when, wrong",
    [("a", 101, 0), ("a", 104, 0), ("a", 106, 1), ("c", 101, 1), ("c", 104, 0), ("c", 106, 0)],
)
def test_who_may_answer_and_when(change: Backends, name: str, when: float, wrong: int) -> None:
    """Before a change the old set, after it the new one, in between both."""
    assert wrong == report(change, **answered(name, when)).misdelivered


def test_a_slow_answer_counts_for_all_its_time(change: Backends) -> None:
    """Whoever was in the set at any moment from the question to the answer may have been asked."""
    slow = {**answered("c", 101.0), "slow": [[101.0, 104.0, "c"]]}
    assert 0 == report(change, **slow).misdelivered


@pytest.mark.parametrize(
    "protocol, name, when, lost",
    [("tcp", "a", 104, 1), ("udp", "a", 104, 0), ("udp", "b", 104, 1), ("udp", "a", 101, 1)],
)
def test_which_held_ones_must_live(
    change: Backends, protocol: str, name: str, when: float, lost: int
) -> None:
    """A stream always; a connected datagram socket while its backend stays in the set."""
    seen = [[when, protocol, name, "reset: by peer"]]
    assert lost == report(change, held_lost=seen).held_lost


def test_a_held_stream_stays_with_its_backend(change: Backends) -> None:
    """Another name on the same connection is a connection that was lost."""
    assert 1 == report(change, held_moved=[[101, "tcp", "a", "b"]]).held_lost


@pytest.mark.parametrize(
    "failed, expected, fails",
    [
        ({}, {}, False),
        ({"refused": 1}, {}, True),
        ({"refused": 2, "timed out": 1}, {"refused": 2, "timed_out": 1}, False),
        ({"refused": 3}, {"refused": 2}, True),
        ({"other": 1}, {"refused": 2}, True),
    ],
)
def test_only_what_is_expected_may_be_lost(
    change: Backends, failed: dict[str, int], expected: dict[str, int], fails: bool
) -> None:
    """Each kind of loss is allowed by itself."""
    made = report(change, failed=failed)
    if not fails:
        made.judge(expected)
        return
    with pytest.raises(AssertionError, match="lost") as raised:
        made.judge(expected)
    assert not isinstance(raised.value, LoadNotThere)


@pytest.mark.parametrize("less", [{"tried": {"tcp": 4990}}, {"held": 49}, {"held_exchanges": 0}])
def test_too_little_load_proves_nothing(change: Backends, less: dict[str, Any]) -> None:
    """Below 500 a second or 50 held, or with held ones that were not asked."""
    with pytest.raises(LoadNotThere):
        report(change, **less).judge()


def test_a_loss_counts_also_with_too_little_load(change: Backends) -> None:
    """A scenario that lost something is not repeated."""
    with pytest.raises(AssertionError) as raised:
        report(change, held=10, failed={"reset": 1}).judge()
    assert not isinstance(raised.value, LoadNotThere)
