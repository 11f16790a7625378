# SPDX-License-Identifier: Apache-2.0
"""Nothing pinned and nobody there: the programs alone find room in the flow table.

Without a process nobody sweeps: each new flow ends up to two whose time is over, and in a full
table those give way that are over, though their time is not.
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
from tests.fault.load.stage import Stage

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(1200)]

FULL = 2048
"""Entries, two or four for each flow: the load fills them within seconds."""
OVER_S = 3
"""So long it stays full: of the load that are two thousand flows more."""
ROOMY = 131072
"""More than the flows of any two minutes of the load, less than those of ten: would nothing end
them, the table were full."""


@under_load
def test_pinless_and_dead_under_new_flows(bare_stage, long):
    """In a full table no new flow is refused and no live one gives way; a large one never fills."""
    stage, entries = bare_stage, ROOMY if long else FULL
    flags = ("--bpf-pins=off", f"--bpf-max-flows={entries}")
    stage.want_proxy(*flags)
    stage.until(lambda: len(flow_maps(stage)) == 1)
    (table,) = flow_maps(stage)
    with stage.load() as load:
        stage.kill_proxy()
        if not long:
            stage.until(lambda: flow_maps(stage)[table] > 0.9 * entries)
        time.sleep(600 if long else OVER_S)
        fill = flow_maps(stage)
        assert [table] == list(fill), "the same table serves"
        print(f"{fill[table]} of {entries} entries")
        if long:
            assert fill[table] < entries, "there is room"
        else:
            assert fill[table] > 0.9 * entries, "it is full"
        with load.recovering():
            stage.start_and_await(*flags)
    assert load.report.by_source["client to node port"]["tcp"] > FULL / 2


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
