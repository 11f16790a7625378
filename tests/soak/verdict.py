# SPDX-License-Identifier: Apache-2.0
"""Whether the figures of a run are flat: pure functions over what was sampled.

Compared are the medians of the first and of the last third of the samples that count: those of a
process that is past its warm-up, and not in the middle of a restart. What is in use by the state of
the cluster is judged at its end, where the cluster is as at the beginning: exactly.
"""

from __future__ import annotations

import statistics
from typing import Mapping, NamedTuple, Sequence

Sample = Mapping[str, float]


class Tolerance(NamedTuple):
    """How much more the last third may be than the first."""

    factor: float = 1.0
    more: float = 0.0


EXACT = Tolerance()
TOLERANCES = {
    "rss_mb": Tolerance(1.05, 4.0),
    "anon_mb": Tolerance(1.05, 4.0),
    "fds": Tolerance(1.0, 1.0),
    # The pool of asyncio starts them as they are asked for at once, up to processors and four.
    "threads": Tolerance(1.0, 4.0),
    "tasks": Tolerance(1.0, 1.0),
    "programs": EXACT,
    "maps": EXACT,
    "links": EXACT,
    "pins": EXACT,
    "flows": Tolerance(1.25, 100.0),
    "tcp_origin": Tolerance(1.25, 100.0),
    "latency_ms": Tolerance(2.0, 10.0),
}
RESTORED = tuple("vips frontends services records slots backends programs maps links pins".split())
"""What has to be the same whenever the cluster is."""


class Judgement(NamedTuple):
    """One figure over a run."""

    name: str
    early: float
    late: float
    allowed: float
    flat: bool

    def __str__(self) -> str:
        verdict = "flat" if self.flat else "GROWS"
        return (
            f"{self.name:12} {self.early:12.1f} {self.late:12.1f} {self.allowed:12.1f}  {verdict}"
        )


def judge(
    samples: Sequence[Sample], warm_up_s: float, tolerances: Mapping[str, Tolerance] = TOLERANCES
) -> list[Judgement]:
    """Each figure, early against late."""
    counted = [sample for sample in samples if sample["age_s"] >= warm_up_s]
    third = max(1, len(counted) // 3)
    found = []
    for name, tolerance in tolerances.items():
        values = [sample[name] for sample in counted if name in sample]
        if len(values) < 3:
            found.append(Judgement(name, 0.0, 0.0, 0.0, False))
            continue
        early, late = statistics.median(values[:third]), statistics.median(values[-third:])
        allowed = early * tolerance.factor + tolerance.more
        found.append(Judgement(name, early, late, allowed, late <= allowed))
    return found


def compare(before: Sample, after: Sample) -> list[Judgement]:
    """What is in use for the same cluster, before and after the run."""
    return [
        Judgement(f"={name}", before[name], after[name], before[name], before[name] == after[name])
        for name in RESTORED
    ]


def table(judgements: Sequence[Judgement]) -> str:
    """For people."""
    head = f"{'figure':12} {'early':>12} {'late':>12} {'allowed':>12}"
    return "\n".join([head, *map(str, judgements)])


def trend(samples: Sequence[Sample], name: str) -> tuple[float, float]:
    """A figure that is told and not judged, of all samples: median of the first and last third."""
    values = [sample[name] for sample in samples] or [0.0]
    third = max(1, len(values) // 3)
    return statistics.median(values[:third]), statistics.median(values[-third:])
