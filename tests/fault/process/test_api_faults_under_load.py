# SPDX-License-Identifier: Apache-2.0
"""Whatever the API server does, connections through the VIP go on and the truth arrives later."""

from __future__ import annotations

import time

import pytest

from tests.fault.load.offered import under_load
from tests.fault.load.stage import ALL, service

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

SLICES = "endpointslices"


def settle(stage, load):
    """A change made after the fault must arrive, and so must the way back."""
    with load.recovering(), load.changing(ALL - {"web-4"}):
        stage.sandbox.scale("web", 3)
        stage.until_answers(ALL - {"web-4"})
    with load.changing(ALL):
        stage.sandbox.scale("web", 4)
        stage.until_answers(ALL)


ON_SLICES = {"resource": SLICES, "verbs": ["list", "watch"]}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"kind": "refuse", "seconds": 3}, id="gone-for-a-while"),
        pytest.param({"kind": "renumber", "first": 1}, id="restart-with-new-versions"),
        pytest.param({"kind": "gone", **ON_SLICES, "times": 2}, id="410"),
        pytest.param(
            {"kind": "status", "code": 429, "retry_after_s": 1, "times": 3, **ON_SLICES},
            id="429-retry-after",
        ),
        pytest.param({"kind": "status", "code": 500, "times": 4, **ON_SLICES}, id="500s"),
        pytest.param({"kind": "cut", "times": 3, **ON_SLICES}, id="cut-in-mid-line"),
        pytest.param({"kind": "truncate", "times": 2, "framed": True, **ON_SLICES}, id="truncated"),
        pytest.param({"kind": "duplicate", "times": 50, **ON_SLICES}, id="duplicate-events"),
    ],
)
@under_load
def test_connections_go_on_through_a_fault(stage, fault):
    """The watch is cut, whoever comes back meets the fault; nobody notices; changes arrive."""
    with stage.load() as load:
        with load.changing(ALL - {"web-4"}):
            stage.fault(kind="cut", **ON_SLICES, times=2)
            stage.fault(**fault)
            stage.persist(lambda: stage.sandbox.scale("web", 3))
            time.sleep(2)
            stage.persist(stage.clear_faults)
            with load.recovering():
                stage.until_answers(ALL - {"web-4"})
        settle(stage, load)


@under_load
def test_a_silent_stall_loses_nothing(stage):
    """While a watch is open and silent the old state serves; when it speaks again nothing is lost.

    That a watch is given up whose silence does not end is proved in tests/fault/api/test_streams.py
    alone: the process has no flag to shorten that time.
    """
    with stage.load() as load:
        stage.fault(kind="stall", resource=SLICES, verbs=["watch"], times=None)
        time.sleep(0.5)
        with load.changing(ALL - {"web-4"}):
            stage.sandbox.scale("web", 3)
            time.sleep(1)
            stage.clear_faults()
            with load.recovering():
                stage.until_answers(ALL - {"web-4"})


@under_load
def test_an_incomplete_list_deletes_nothing(stage):
    """A list that is cut off in the middle is not a list: every Service keeps working."""
    others = [stage.put(service(f"other-{n}"))["spec"]["clusterIP"] for n in range(5)]
    for vip in others:
        stage.until_answers(ALL, vip)
    before = stage.maps()
    with stage.load() as load:
        stage.fault(kind="truncate", verbs=["list", "watch"], times=None)
        stage.fault(kind="refuse", seconds=0.2)
        time.sleep(0.5)
        for _ in range(4):
            time.sleep(0.5)
            assert before == stage.maps()
        stage.persist(stage.clear_faults)
        settle(stage, load)
    assert before == stage.maps()


@under_load
def test_one_malformed_object_disturbs_nobody(stage):
    """Wrong types in one object, impossible ones in others: reported by name, the rest served."""
    with stage.load() as load:
        stage.put(service("bad-ip", clusterIP="10.96.0.300", clusterIPs=["10.96.0.300"]))
        stage.put(service("bad-protocol", ports=[{"protocol": "CARRIER-PIGEON", "port": 80}]))
        stage.put(service("bad-number", ports=[{"protocol": "TCP", "port": 70000}]))
        stage.put(service("bad-word", ports=[{"protocol": "TCP", "port": "eighty"}]))
        vip = stage.put(service("good"))["spec"]["clusterIP"]
        stage.until_answers(ALL, vip)
        settle(stage, load)
    log = stage.log()
    for name in ("bad-ip", "bad-protocol", "bad-number", "bad-word"):
        assert f"default/{name}" in log or f"name={name} namespace=default" in log
    for name in ("bad-ip", "bad-protocol", "bad-number", "bad-word", "good"):
        stage.sandbox.api.delete(service(name))


@under_load
def test_a_huge_object_is_read(stage):
    """An object of 5 MB comes through the watch like any other."""
    with stage.load():
        big = service("big")
        big["metadata"]["annotations"] = {"filler": "x" * (5 << 20)}
        vip = stage.put(big)["spec"]["clusterIP"]
        stage.until_answers(ALL, vip)
    stage.sandbox.api.delete(service("big"))
