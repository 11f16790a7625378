# SPDX-License-Identifier: Apache-2.0
"""What came of offered load: who answered when he should not have, what was lost, the totals.

Pure but for one line per scenario in ``.build/reliability.jsonl``. The generators tell what they
saw (``generator.py``); the scenario tells which backends were in the set, and when (``Backends``).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, NamedTuple

LEAST_RATE, LEAST_HELD = 500, 50
RECORD = Path(__file__).parents[3] / ".build" / "reliability.jsonl"
BUCKET_S = 0.1
GRACE_S = 0.2
"""A change of the set and an answer may cross: the clock is read before and after."""
HELD_GRACE_S = 2.0
"""Sockets of datagrams whose backend has gone are ended a moment after it went."""

reports: list[Report] = []
"""All of this run of pytest, for the summary."""


class LoadNotThere(AssertionError):
    """The machine could not offer the load: the run proves nothing, good or bad."""


class Span(NamedTuple):
    """From a moment on: who may answer, and whose conversations must live."""

    since: float
    may: frozenset[str]
    must: frozenset[str]


class Backends:
    """Which backends may answer, over time."""

    def __init__(self) -> None:
        self._spans: list[Span] = []

    def set(self, may: Iterable[str], now: float, must: Iterable[str] | None = None) -> None:
        """From now on these may answer; in the middle of a change not all of them must."""
        allowed = frozenset(may)
        self._spans.append(Span(now, allowed, allowed if must is None else frozenset(must)))

    @property
    def now(self) -> frozenset[str]:
        return self._spans[-1].may

    def between(self, begin: float, end: float) -> Iterator[Span]:
        """All that applied at some moment of a time."""
        following = [span.since for span in self._spans[1:]] + [math.inf]
        for span, until in zip(self._spans, following):
            if span.since <= end and until >= begin:
                yield span

    def allowed(self, name: str, begin: float, end: float, grace: float = GRACE_S) -> bool:
        """Whether a backend was in the set at some moment of this time."""
        return any(name in span.may for span in self.between(begin - grace, end + grace))

    def certain(self, name: str, when: float) -> bool:
        """Whether it was in the set all around this moment: a conversation with it had to live."""
        return all(name in span.must for span in self.between(when - HELD_GRACE_S, when + GRACE_S))


@dataclass
class Report:
    """The figures of one scenario, over all its generators."""

    scenario: str
    seconds: float = 0.0
    rate: float = 0.0
    tried: int = 0
    refused: int = 0
    reset: int = 0
    timed_out: int = 0
    otherwise_failed: int = 0
    misdelivered: int = 0
    held: int = 0
    held_lost: int = 0
    held_exchanges: int = 0
    longest_gap_s: float = 0.0
    recovery_s: float | None = None
    cpu_s: float = 0.0
    by_source: dict[str, dict[str, int]] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)
    """The first failures, in words."""

    @property
    def losses(self) -> dict[str, int]:
        """What a client noticed."""
        names = ("refused", "reset", "timed_out", "otherwise_failed", "misdelivered", "held_lost")
        return {name: getattr(self, name) for name in names}

    def judge(self, expected_losses: Mapping[str, int] | None = None) -> None:
        """Nobody noticed more than is expected, and the load was there."""
        allowed = expected_losses or {}
        unknown = set(allowed) - set(self.losses)
        assert not unknown, f"no such losses: {unknown}"
        more = {name: n for name, n in self.losses.items() if n > allowed.get(name, 0)}
        assert not more, f"lost {more}\n{self}\n" + "\n".join(self.samples)
        if self.rate < LEAST_RATE or self.held < LEAST_HELD or not self.held_exchanges:
            raise LoadNotThere(str(self))

    def __str__(self) -> str:
        lost = ", ".join(f"{n} {name}" for name, n in self.losses.items() if n) or "nothing lost"
        recovery = f", back in {self.recovery_s:.1f} s" if self.recovery_s is not None else ""
        return (
            f"{self.scenario}: offered {self.rate:.0f}/s and {self.held} held for "
            f"{self.seconds:.1f} s: {self.tried} tried, {lost}, "
            f"longest gap {self.longest_gap_s:.2f} s{recovery}"
        )

    def record(self) -> None:
        """Print it, keep it for the summary, and append it to the figures of all runs."""
        print(self)
        reports.append(self)
        RECORD.parent.mkdir(exist_ok=True)
        with RECORD.open("a") as stream:
            stream.write(json.dumps(vars(self)) + "\n")

    # ---- taking in ----

    def take(self, source: str, told: Mapping[str, Any], backends: Backends) -> None:
        """Add what one generator told."""
        tried = sum(told["tried"].values())
        seconds = told["ended"] - told["begun"]
        self.tried += tried
        self.rate += tried / seconds
        self.seconds = max(self.seconds, seconds)
        self.held += told["held"]
        self.held_exchanges += told["held_exchanges"]
        self.longest_gap_s = max(self.longest_gap_s, told["longest_gap_s"])
        self.cpu_s += told["cpu_s"]
        self.by_source[source] = {**told["tried"], "held": told["held"]}
        self._take_failures(source, told)
        self._take_answers(source, told, backends)
        self._take_held(source, told, backends)

    def _take_failures(self, source: str, told: Mapping[str, Any]) -> None:
        failed = Counter(told["failed"])
        self.refused += failed["refused"]
        self.reset += failed["reset"]
        self.timed_out += failed["timed out"]
        self.otherwise_failed += failed["other"]
        for begun, ended, protocol, kind, text in told["failures"]:
            when = f"{begun - told['begun']:.2f} to {ended - told['begun']:.2f} s"
            self._sample(f"{source}, {protocol}, {when}: {kind}: {text}")

    def _take_answers(self, source: str, told: Mapping[str, Any], backends: Backends) -> None:
        slow: Counter[tuple[str, int]] = Counter()
        for begun, ended, name in told["slow"]:
            slow[name, int(begun / BUCKET_S)] += 1
            if not backends.allowed(name, begun, ended):
                self._misdelivered(source, told, begun, name, 1)
        for grace, answers in ((GRACE_S, "answers"), (HELD_GRACE_S, "held_answers")):
            for name, buckets in told[answers].items():
                for bucket, count in buckets.items():
                    begin = int(bucket) * BUCKET_S
                    if answers == "answers":
                        count -= slow[name, int(bucket)]
                    if count > 0 and not backends.allowed(name, begin, begin + BUCKET_S, grace):
                        self._misdelivered(source, told, begin, name, count)

    def _misdelivered(
        self, source: str, told: Mapping[str, Any], when: float, name: str, count: int
    ) -> None:
        self.misdelivered += count
        self._sample(f"{source}, {when - told['begun']:.1f} s: {count} answers of {name}")

    def _take_held(self, source: str, told: Mapping[str, Any], backends: Backends) -> None:
        """A stream must live; a datagram socket as long as its backend is in the set."""
        for when, protocol, name, reason in told["held_lost"]:
            if protocol == "tcp" or not name or backends.certain(name, when):
                self.held_lost += 1
                self._sample(
                    f"{source}, {when - told['begun']:.1f} s: held {protocol} of {name}: {reason}"
                )
        for when, protocol, name, other in told["held_moved"]:
            if protocol == "tcp" or backends.certain(name, when):
                self.held_lost += 1
                self._sample(
                    f"{source}, {when - told['begun']:.1f} s: held {protocol}: {name} to {other}"
                )

    def _sample(self, text: str) -> None:
        if len(self.samples) < 20:
            self.samples.append(text)


def totals() -> str:
    """One line on all scenarios of this run."""
    losses: Counter[str] = Counter()
    for each in reports:
        losses.update(each.losses)
    lost = ", ".join(f"{n} {name}" for name, n in losses.items() if n) or "nothing lost"
    tried = sum(each.tried for each in reports)
    held = sum(each.held for each in reports)
    return f"{len(reports)} scenarios: {tried} conversations tried, {held} held, {lost}"
