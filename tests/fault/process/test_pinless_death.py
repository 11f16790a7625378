# SPDX-License-Identifier: Apache-2.0
"""Nothing pinned and nobody there: the programs alone find room in the flow table.

Without a process nobody sweeps: flows that are over stay until the table is full, and then the
programs give their room to new ones, for ever.
"""

from __future__ import annotations

import time
from functools import partial

import pytest

from kubeproxy_bpf.config.load import load as load_config
from kubeproxy_bpf.dataplane import inventory
from kubeproxy_bpf.dataplane.owned import Owned
from kubeproxy_bpf.dataplane.settings import netns_cookie
from kubeproxy_bpf.libbpf import BpfMap, LibbpfError
from kubeproxy_bpf.program_settings import owner_of
from tests.fault.load.offered import under_load
from tests.fault.load.stage import ALL, Stage

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(1200)]

FLOWS = 2048
"""Entries, two or four each flow: the load fills them within seconds."""


@under_load
def test_pinless_and_dead_under_new_flows(stage, long):
    """The table is full after seconds; no new flow is refused, and no live one gives way."""
    stage.kill_proxy()
    stage.start_and_await("--bpf-pins=off", f"--bpf-max-flows={FLOWS}")
    try:
        stage.until_answers(ALL, place="client")
        stage.until(lambda: len(flow_maps(stage)) == 1)
        (table,) = flow_maps(stage)
        with stage.load() as load:
            stage.kill_proxy()
            time.sleep(600 if long else 8)
            fill = flow_maps(stage)
            assert [table] == list(fill), "the same table serves"
            assert fill[table] > 0.9 * FLOWS, "it is full"
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
        try:
            with BpfMap.from_id(number) as each:
                if each.name == "kpb_flows":
                    found[number] = sum(1 for _ in each.items())
        except LibbpfError:  # the last program on it has just gone
            continue
    return found
