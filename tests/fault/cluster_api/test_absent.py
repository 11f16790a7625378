# SPDX-License-Identifier: Apache-2.0
"""An API server that is away, refuses or takes its time: connections go on, changes arrive."""

from __future__ import annotations

import time

import pytest

from tests.fault.cluster_api.world import pause
from tests.fault.load.offered import under_load
from tests.fault.load.stage import ALL

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

ON_SLICES = {"resource": "endpointslices", "verbs": ["list", "watch"], "times": None}
WHOLE_SERVER = ("refuse", "flap")
"""These cut all connections by themselves, and end by themselves."""
SHORT_S, LONG_S = 1.0, 60.0
STRIKES = 10

# What the fault is, and what the log says of it: a fault that did not bite proves nothing.
FAULTS = [
    pytest.param({"kind": "refuse"}, "Cannot connect", id="gone"),
    pytest.param({"kind": "flap", "up_s": 0.2, "down_s": 0.9}, "Cannot connect", id="flapping"),
    pytest.param({"kind": "gone", **ON_SLICES}, "410", id="410-storm"),
    pytest.param({"kind": "status", "code": 500, **ON_SLICES}, "500", id="500"),
    pytest.param({"kind": "status", "code": 429, "retry_after_s": 1, **ON_SLICES}, "429", id="429"),
    pytest.param({"kind": "cut", **ON_SLICES}, "cut in|payload", id="cut-in-mid-line"),
]


def lasting(fault: dict, seconds: float) -> dict:
    """The fault for so long, where it says so itself."""
    if fault["kind"] == "refuse":
        return {**fault, "seconds": seconds}
    if fault["kind"] == "flap":
        return {**fault, "times": max(2, round(seconds / (fault["up_s"] + fault["down_s"])))}
    return fault


def strike(stage, fault: dict, said: str, since: int, seconds: float) -> None:
    """Make the fault, and wait until it bit.

    One that ends by itself is longer than the first back-off, so the first attempt falls into it.
    On a busy machine that attempt may be late: then it is made again.
    """
    for _ in range(STRIKES if fault["kind"] in WHOLE_SERVER else 1):
        stage.persist(lambda: stage.fault(**lasting(fault, seconds)))
        if fault["kind"] not in WHOLE_SERVER:
            stage.fault(kind="disconnect")
            break
        until = time.monotonic() + 2 * (seconds + 1)
        while time.monotonic() < until and not stage.has_said(said, since):
            pause(0.05)
        if stage.has_said(said, since):
            break
    stage.until_said(said, since)


@pytest.mark.parametrize("fault, said", FAULTS)
@under_load
def test_connections_go_on(stage, fault, said, long):
    """Endpoints change while the API server is not what it should be; they arrive afterwards."""
    seconds = LONG_S if long else SHORT_S
    since = len(stage.log())
    with stage.load() as load, load.changing(ALL - {"web-4"}):
        strike(stage, fault, said, since, seconds)
        stage.scale(3, 30 + 2 * seconds)
        if fault["kind"] not in WHOLE_SERVER:
            pause(seconds)
        stage.persist(stage.clear_faults)
        with load.recovering():
            stage.until_answers(ALL - {"web-4"})


@under_load
def test_a_slow_server_is_waited_for(stage, long):
    """Answers that begin late and come in small pieces are slow, not wrong."""
    delay_s = 20.0 if long else 1.5
    with stage.load() as load, load.changing(ALL - {"web-4"}):
        stage.fault(kind="delay", delay_s=delay_s, verbs=["list", "watch"], times=None)
        stage.fault(kind="disconnect")
        stage.scale(3)
        with load.recovering():
            stage.until_answers(ALL - {"web-4"})


@under_load
def test_a_watch_that_is_silent_for_ever_is_given_up(stage):
    """It stays open and says nothing, to whoever asks: that no bookmarks come gives it away, and
    the next one is heard."""
    stage.until_paced()
    since = len(stage.log())
    with stage.load() as load, load.changing(ALL - {"web-4"}):
        stage.fault(kind="stall", resource="endpointslices", verbs=["watch"], times=None)
        pause(0.2)
        stage.scale(3)
        stage.until_said("bookmarks stopped coming", since)
        stage.clear_faults()
        with load.recovering():
            stage.until_answers(ALL - {"web-4"})
