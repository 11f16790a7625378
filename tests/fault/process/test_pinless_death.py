# SPDX-License-Identifier: Apache-2.0
"""Nothing pinned and nobody there: the programs alone keep the flow table from filling up."""

from __future__ import annotations

import time
from functools import partial

import pytest

from kubeproxy_bpf.config.load import load as load_config
from kubeproxy_bpf.dataplane import inventory
from kubeproxy_bpf.dataplane.owned import Owned
from kubeproxy_bpf.dataplane.settings import netns_cookie
from kubeproxy_bpf.libbpf import BpfMap
from kubeproxy_bpf.program_settings import owner_of
from tests.fault.load.offered import under_load
from tests.fault.load.stage import ALL, Stage

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(1200)]

FLOWS = 1024
"""Entries, two or four each flow: what the load makes in the first seconds."""


@under_load
def test_pinless_and_dead_under_new_flows(stage, long):
    """A table as small as the load of seconds does not fill for good, and nothing is refused."""
    stage.kill_proxy()
    stage.start_and_await("--bpf-pins=off", f"--bpf-max-flows={FLOWS}")
    try:
        stage.until_answers(ALL, place="client")
        before = flow_maps(stage)
        with stage.load() as load:
            stage.kill_proxy()
            time.sleep(600 if long else 8)
            assert flow_maps(stage).keys() == before.keys(), "the same tables serve"
            with load.recovering():
                stage.start_and_await("--bpf-pins=off", f"--bpf-max-flows={FLOWS}")
        assert load.report.by_source["client to node port"]["tcp"] > FLOWS
    finally:
        if stage.sandbox.proxy_pids("node1"):
            stage.kill_proxy()
        stage.start_and_await()


def flow_maps(stage: Stage) -> dict[int, int]:
    """The flow tables of the instance of node1 by id, with the number of their entries."""
    return stage.sandbox.run_in("node1", partial(_flow_maps, str(stage.sandbox.pin_path("node1"))))


def _flow_maps(pins: str) -> dict[int, int]:
    config = load_config([f"--bpf-pin-path={pins}", "--hostname-override=any"])
    found = {}
    for number in inventory.maps_left(Owned(owner_of(config, netns_cookie()))):
        with BpfMap.from_id(number) as each:
            if each.name == "kpb_flows":
                found[number] = sum(1 for _ in each.items())
    return found
