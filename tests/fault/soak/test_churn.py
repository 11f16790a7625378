# SPDX-License-Identifier: Apache-2.0
"""The short form of the soak: what leaks by a restart or by a change shows in seconds."""

from __future__ import annotations

import os

import pytest

from kubeproxy_bpf.sandbox.apiserver.bulk import Shape
from tests.soak import verdict
from tests.soak.churn import Plan, soak

pytestmark = pytest.mark.root


def test_change_and_restarts_leave_nothing_behind() -> None:
    """After a few hundred changes and restarts of both kinds as many programs, maps, links, pins,
    slots and backends are in use as before, and no connection was lost."""
    plan = Plan(
        Shape(300, 4),
        rate=25,
        seconds=12,
        restart_every_s=4,
        sample_every_s=1,
        warm_up_s=2,
        least_restarts=2,
        least_samples=6,
    )
    figures = soak(f"kpbt-q{os.getpid() % 100000}", plan)

    print(figures)
    assert len(figures.restarts) >= 2 and figures.changes >= 150
    assert [
        str(each) for each in verdict.compare(figures.before, figures.after) if not each.flat
    ] == []
    exact = {name: verdict.TOLERANCES[name] for name in ("programs", "maps", "links", "pins")}
    # A few samples may all fall on a moment's pipes and connections: one for each change is a leak.
    exact |= {"fds": verdict.Tolerance(more=20), "anon_mb": verdict.Tolerance(1.3)}
    steady = verdict.judge(figures.samples, plan.warm_up_s, exact)
    assert [str(each) for each in steady if not each.flat] == []
    assert {name: n for name, n in figures.load.losses.items() if n} == {}
