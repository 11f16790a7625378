# SPDX-License-Identifier: Apache-2.0
"""Somebody removes programs of ours at devices, or puts his own before and behind them."""

from __future__ import annotations

import pytest

from kubeproxy_bpf.sandbox.cgroup import mount_point
from tests.fault.kernel.foreign import Foreign
from tests.fault.kernel.losses import by_packets_only, nothing_lost_inside
from tests.fault.kernel.node import NODE, KernelStage
from tests.fault.load.offered import under_load

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]


@under_load
def test_programs_at_all_devices(stage: KernelStage) -> None:
    """By links of tcx: at the uplink seen at a glance, at the others with it."""
    before = stage.chains()
    counter = 'kubeproxy_bpf_device_reattachments_total{device="eth0",hook="ingress"}'
    count = stage.metric(counter)
    with stage.load() as load:
        by_packets_only(load)
        removed = stage.detach(set(before))
        with load.recovering():
            stage.until(lambda: stage.chains() == before)

    assert removed == sum(map(sum, before.values()))
    assert count + 1 == stage.metric(counter)
    assert nothing_lost_inside(load)


@under_load
def test_before_and_behind_at_tcx_and_beside_at_the_cgroup(
    stage: KernelStage, foreign: Foreign
) -> None:
    """Ours moves to the front without a gap, theirs stay where they are, and all of them count."""
    with stage.load() as load:
        for device in ("eth0", "v-shell-1"):
            foreign.around(device)
        foreign.at_cgroup(mount_point() / stage.sandbox.layout.node_cgroup(NODE))
        with load.recovering():
            stage.until(lambda: stage.first_program("eth0") == "kpb_tc_ingress")
        begun = foreign.seen()
        assert 3 == stage.chains()["eth0"][0]

    first, last, _, connect = (
        after - before for after, before in zip(foreign.seen(), begun, strict=True)
    )
    assert last and connect
    assert first and first >= last
