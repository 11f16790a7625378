# SPDX-License-Identifier: Apache-2.0
"""Programs of somebody else at our hooks, before and behind ours: all run, nothing is lost."""

from __future__ import annotations

import pytest

from kubeproxy_bpf.libbpf import AttachType
from kubeproxy_bpf.sandbox.cgroup import mount_point
from tests.fault.kernel.foreign import XDP_GENERIC, Foreign
from tests.fault.kernel.node import NODE, KernelStage
from tests.fault.load.offered import under_load

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]


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


@under_load
def test_xdp_of_somebody_else(stage: KernelStage, foreign: Foreign) -> None:
    """There is one program per device: theirs stays, ours is refused, and TC does the work."""
    foreign.at_device("f_xdp", "eth0", AttachType.XDP, XDP_GENERIC)
    with stage.load():
        stage.change_proxy("--bpf-xdp=generic")
        stage.until(lambda: "device_refused_program" in stage.log())
        assert 1 == stage.metric('kubeproxy_bpf_device_xdp_mode{device="eth0",mode="none"}')

    assert foreign.seen()[2]
