# SPDX-License-Identifier: Apache-2.0
"""Soak: endpoints change without pause, proxies come and go, and nothing may grow.

    python -m tests.soak.churn --minutes 60 --services 5000 --rate 50 --json figures.json

A real API server and a real proxy in a sandbox, load on a Service that nobody changes. Every few
minutes the proxy is ended, by SIGKILL and by SIGTERM in turn, and the next one started. At the end
the cluster is led back to how it was at the beginning. Printed are the early and the late median of
each figure, with a verdict for each; the exit status is 1 if one grows. The short form is a test
(``tests/fault/soak``).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubeproxy_bpf.log import set_up
from kubeproxy_bpf.sandbox.apiserver.bulk import Shape
from tests.fault.load.report import Report
from tests.soak import verdict
from tests.soak.api import Api
from tests.soak.changes import Changes
from tests.soak.latency import Latency
from tests.soak.readings import Readings
from tests.soak.world import World, serve_web, standing

_SETTLED_S = 60.0
_PRINTED = (
    "at_s age_s rss_mb fds programs maps links slots backends flows tasks threads latency_ms"
).split()


@dataclass(frozen=True)
class Plan:
    """What is done, and for how long."""

    shape: Shape
    rate: float
    seconds: float
    restart_every_s: float
    sample_every_s: float
    warm_up_s: float
    seed: int = 1
    least_restarts: int = 0
    least_samples: int = 0
    """It goes on until there were so many, of processes past their warm-up: on a slow machine all
    takes its time."""


@dataclass
class Figures:
    """What came of it."""

    plan: Plan
    samples: list[dict[str, float]] = field(default_factory=list)
    restarts: list[tuple[str, float]] = field(default_factory=list)
    """By which signal, and seconds until the next one served."""
    late: int = 0
    """Changes of the probe that did not arrive in time."""
    changes: int = 0
    rate: float = 0.0
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    load: Report = field(default_factory=lambda: Report("soak"))

    def judgements(self) -> list[verdict.Judgement]:
        """All figures that are judged."""
        steady = verdict.judge(self.samples, self.plan.warm_up_s)
        return steady + verdict.compare(self.before, self.after)

    @property
    def enough(self) -> bool:
        """Whether there is so much to judge as the plan wants at least."""
        counted = sum(sample["age_s"] >= self.plan.warm_up_s for sample in self.samples)
        return counted >= self.plan.least_samples and len(self.restarts) >= self.plan.least_restarts

    @property
    def machine_load(self) -> tuple[float, float]:
        """Early and late: what else went on; a change takes longer on a busy machine."""
        return verdict.trend(self.samples, "machine_load")

    @property
    def problems(self) -> list[str]:
        """What is not as it should be, in words."""
        found = [str(each) for each in self.judgements() if not each.flat]
        found += [f"{count} {name}" for name, count in self.load.losses.items() if count]
        return found + ([f"{self.late} changes arrived late or never"] if self.late else [])

    def __str__(self) -> str:
        ways = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.restarts)
        return "\n".join(
            [
                verdict.table(self.judgements()),
                f"{self.changes} changes at {self.rate:.1f} per second, restarts: {ways or 'none'}",
                str(self.load),
                "load average of the machine: {:.1f}, then {:.1f}".format(*self.machine_load),
                *(self.problems or ["everything is flat, and nothing was lost"]),
            ]
        )

    def as_json(self) -> dict[str, Any]:
        """For documents: figures, not samples."""
        return {
            "plan": vars(self.plan) | {"shape": list(self.plan.shape)},
            "changes": self.changes,
            "rate": round(self.rate, 1),
            "restarts": [[name, round(seconds, 2)] for name, seconds in self.restarts],
            "samples": len(self.samples),
            "machine_load": [round(each, 1) for each in self.machine_load],
            "figures": [each._asdict() for each in self.judgements()],
            "load": {"tried": self.load.tried, "held": self.load.held, **self.load.losses},
            "problems": self.problems,
        }


def soak(name: str, plan: Plan, tell: Any = None) -> Figures:
    """Do all of it in a sandbox of this name; ``tell`` is given every sample."""
    figures = Figures(plan)
    with standing(name, plan.shape) as world:
        target = serve_web(world)
        world.start_proxy()
        layout = world.sandbox.layout
        with closing(Api(layout)) as for_changes, closing(Api(layout)) as for_probe:
            changes = Changes(for_changes, plan.shape, plan.rate, plan.seed)
            latency = Latency(world.sandbox, for_probe)
            changes.prepare()
            latency.measure()
            readings = Readings(world.sandbox)
            figures.before = _settled(readings)
            world.start_load(*target)
            changes.start()
            try:
                _watch(world, figures, readings, latency, tell)
            finally:
                changes.stop()
            figures.changes, figures.rate = changes.made, changes.rate
            changes.restore()
            figures.after = _settled(readings, figures.before)
        figures.load = world.stop_load()
    return figures


def _watch(world: World, figures: Figures, readings: Readings, latency: Latency, tell: Any) -> None:
    plan = figures.plan
    ways = itertools.cycle((signal.SIGKILL, signal.SIGTERM))
    begun = time.monotonic()
    restart_at, sample_at = begun + plan.restart_every_s, begun
    while time.monotonic() < begun + plan.seconds or not figures.enough:
        if time.monotonic() >= restart_at:
            way = next(ways)
            figures.restarts.append((way.name, world.restart_proxy(way)))
            restart_at = time.monotonic() + plan.restart_every_s
        sample = readings.sample() | {"at_s": time.monotonic() - begun}
        sample["machine_load"] = os.getloadavg()[0]
        milliseconds = latency.measure()
        if milliseconds is None:
            figures.late += 1
        else:
            sample["latency_ms"] = milliseconds
        figures.samples.append(sample)
        if tell is not None:
            tell(sample)
        sample_at = max(sample_at + plan.sample_every_s, time.monotonic())
        time.sleep(max(0.0, sample_at - time.monotonic()))


def _settled(readings: Readings, wanted: dict[str, float] | None = None) -> dict[str, float]:
    """A sample when nothing changes any more, or when all is as it was."""
    deadline = time.monotonic() + _SETTLED_S
    last: dict[str, float] = {}
    while True:
        sample = readings.sample()
        state = {name: sample[name] for name in verdict.RESTORED}
        if time.monotonic() > deadline or state == _state(wanted or last):
            return sample
        last = sample
        time.sleep(1.0)


def _state(sample: dict[str, float]) -> dict[str, float]:
    return {name: sample[name] for name in verdict.RESTORED if name in sample}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--minutes", type=float, default=60.0)
    add("--services", type=int, default=5000)
    add("--endpoints", type=int, default=4, help="of each Service at the beginning")
    add("--rate", type=float, default=50.0, help="changes per second")
    add("--restart-every", type=float, default=300.0, help="seconds")
    add("--sample-every", type=float, default=5.0, help="seconds")
    add("--warm-up", type=float, default=60.0, help="seconds of a process that are not judged")
    add("--seed", type=int, default=1)
    add("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    set_up()
    # What was built is taken down whichever way this ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    plan = Plan(
        Shape(given.services, given.endpoints),
        given.rate,
        given.minutes * 60,
        given.restart_every,
        given.sample_every,
        given.warm_up,
        given.seed,
    )
    figures = soak(f"kpbt-s{os.getpid() % 100000}", plan, _print_sample)
    print(figures)
    if given.json:
        given.json.write_text(json.dumps(figures.as_json(), indent=1) + "\n")
    return 1 if figures.problems else 0


def _print_sample(sample: dict[str, float]) -> None:
    with suppress(BrokenPipeError):
        print(" ".join(f"{name}={sample.get(name, -1):.0f}" for name in _PRINTED), flush=True)


if __name__ == "__main__":
    sys.exit(main())
