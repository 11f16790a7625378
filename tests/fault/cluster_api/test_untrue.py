# SPDX-License-Identifier: Apache-2.0
"""An API server that says less than is true, or other things: no endpoint that lives is taken."""

from __future__ import annotations

import pytest

from tests.fault.cluster_api.world import pause
from tests.fault.load.offered import under_load
from tests.fault.load.stage import ALL, service

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

ON_SLICES = {"resource": "endpointslices", "verbs": ["list", "watch"]}
THREE = ALL - {"web-4"}


def follows(stage, load, replicas: int, seconds: float = 60) -> None:
    """A change of endpoints arrives."""
    names = {f"web-{number + 1}" for number in range(replicas)}
    with load.changing(names), load.recovering():
        stage.scale(replicas)
        stage.until_answers(names, seconds=seconds)


@under_load
def test_a_stale_replica_brings_no_endpoint_back(stage, long):
    """One endpoint has gone when all who ask get the past: the past is not served again."""
    since = len(stage.log())
    with stage.load() as load:
        stage.fault(kind="stale", **ON_SLICES, times=None)
        follows(stage, load, 3)
        stage.fault(kind="gone", resource="endpointslices", verbs=["watch"], times=1)
        stage.until_said("list_doubted.*older than.*EndpointSlice", since, times=4 if long else 1)
        pause(30 if long else 0.3)
        assert stage.answers() == THREE
        stage.clear_faults()
        follows(stage, load, 2)


@under_load
def test_a_list_that_lacks_everything_takes_nothing(stage):
    """Once; it claims to be whole. A second one, asked at once, tells the truth."""
    since = len(stage.log())
    with stage.load() as load:
        stage.fault(kind="shrink", **ON_SLICES, times=1)
        stage.fault(kind="gone", resource="endpointslices", verbs=["watch"], times=1)
        stage.until_said("list_doubted.*missing.*EndpointSlice", since)
        follows(stage, load, 3)


@under_load
def test_half_a_list_is_none(stage):
    """Bodies that end in the middle, with a proper end or without, take nothing away."""
    since = len(stage.log())
    before = stage.maps()
    with stage.load() as load:
        for framed in (True, False):
            stage.fault(kind="truncate", **ON_SLICES, times=1, framed=framed)
        stage.fault(kind="status", code=422, resource="endpointslices", verbs=["watch"], times=1)
        stage.fault(kind="gone", resource="endpointslices", verbs=["watch"], times=1)
        stage.until_said("watch_failed.*EndpointSlice", since, times=3)
        assert stage.maps() == before
        follows(stage, load, 3)


@under_load
def test_events_twice_and_out_of_order_end_in_the_truth(stage):
    """The older of two events never has the last word."""
    since = len(stage.log())
    with stage.load() as load:
        stage.fault(kind="duplicate", resource="endpointslices", verbs=["watch"], times=2)
        follows(stage, load, 3)
        stage.fault(kind="reorder", resource="endpointslices", verbs=["watch"], times=1)
        with load.changing({"web-1"}), load.recovering():
            for replicas in (2, 1):  # two events, of which the second comes first
                stage.scale(replicas)
                pause(0.3)
            stage.until_answers({"web-1"})
    stage.until_said("resourceVersion \\d+ came after \\d+", since)


@under_load
def test_a_restored_server_is_followed(stage, long):
    """All versions are new: above all that was, as a restore is meant to be made, or from 1 on,
    which only time can tell from a replica that lags."""
    since = len(stage.log())
    with stage.load() as load:
        stage.fault(kind="renumber", first=1_000_000_000)
        pause(0.2)
        follows(stage, load, 3)
        if long:
            stage.until_paced()
            stage.fault(kind="renumber", first=1)
            pause(0.2)
            follows(stage, load, 2, seconds=180)
            stage.until_said("history_replaced", since)


@under_load
def test_one_malformed_object_disturbs_nobody(stage):
    """Wrong types in one object, impossible ones in others: each is named, the rest is served."""
    bad = {
        "bad-ip": {"clusterIP": "10.96.0.300", "clusterIPs": ["10.96.0.300"]},
        "bad-protocol": {"ports": [{"protocol": "CARRIER-PIGEON", "port": 80}]},
        "bad-number": {"ports": [{"protocol": "TCP", "port": 70000}]},
        "bad-word": {"ports": [{"protocol": "TCP", "port": "eighty"}]},
    }
    with stage.load() as load:
        for name, spec in bad.items():
            stage.put(service(name, **spec))
        vip = stage.put(service("good"))["spec"]["clusterIP"]
        stage.until_answers(ALL, vip)
        follows(stage, load, 3)
    log = stage.log()
    for name in bad:
        assert f"default/{name}" in log or f"name={name} namespace=default" in log
    for name in (*bad, "good"):
        stage.delete(service(name))


@under_load
def test_a_huge_object_is_read(stage):
    """An object of 5 MB comes through the watch like any other."""
    with stage.load() as load:
        big = service("big")
        big["metadata"]["annotations"] = {"filler": "x" * (5 << 20)}
        vip = stage.put(big)["spec"]["clusterIP"]
        stage.until_answers(ALL, vip)
        follows(stage, load, 3)
    stage.delete(service("big"))
