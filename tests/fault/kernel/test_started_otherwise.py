# SPDX-License-Identifier: Apache-2.0
"""Faults of the kernel side of a proxy that was started otherwise than usual."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from kubeproxy_bpf.libbpf import AttachType, Link
from kubeproxy_bpf.sandbox.cgroup import mount_point
from tests.fault.kernel.foreign import XDP_GENERIC, Foreign
from tests.fault.kernel.losses import by_packets_only, nothing_lost_inside
from tests.fault.kernel.node import NODE, KernelStage
from tests.fault.load.offered import under_load

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]
KEEPS_FLAGS = True
XDP = ("--bpf-xdp=generic", "--bpf-audit-period=1s")
NO_TCX = (
    f"{sys.executable} -c 'import kubeproxy_bpf.dataplane.devices as d; d.has_tcx = lambda: False;"
    " from kubeproxy_bpf.cli import main; main()'"
)


SAME_PORT = 5
"""Held connections of one client to one backend have ports beside each other: where one is met, the
next ones are near. Some one in a hundred of all ports is tried while the program is gone."""


@under_load
def test_xdp_of_somebody_else_and_a_wrong_group(stage: KernelStage, foreign: Foreign) -> None:
    """A device has one program of XDP: theirs stays, ours is refused, and TC does the work.

    The proxy hooks the group in which it sits itself: all is attached and its own sockets prove it,
    but those of pods pass no hook. Packets serve them; log, metric and health tell.
    """
    stage.want_proxy()
    foreign.at_device("f_xdp", "eth0", AttachType.XDP, XDP_GENERIC)
    own = mount_point() / stage.sandbox.layout.cgroup(NODE)
    since = len(stage.log())
    with stage.load() as load:
        load.expect(held_lost=SAME_PORT)
        stage.change_proxy("--bpf-xdp=generic", f"--bpf-cgroup-root={own}")
        with load.recovering():
            stage.until(lambda: "cgroup_root_wrong" in stage.log()[since:])
            stage.until(lambda: "kubeproxy_bpf_cgroup_sound 0" in stage.metrics())
        stage.until(lambda: "device_refused_program" in stage.log()[since:])
        assert 1 == stage.metric('kubeproxy_bpf_device_xdp_mode{device="eth0",mode="none"}')
        assert 1 == stage.metric("kubeproxy_bpf_hooks_proved")
        stage.until(lambda: stage.health()[0] == 503)
        assert "wrong cgroup" in stage.health()[1]

    assert "are outside of it" in stage.log()[since:]
    assert foreign.seen()[2]


@under_load
def test_filters_and_their_qdisc(stage: KernelStage) -> None:
    """On a kernel without tcx: netlink tells of it at once."""
    stage.want_proxy(command=NO_TCX)
    since = len(stage.log())
    try:
        stage.until(lambda: set(stage.chains().values()) == {(0, 0)})
        with stage.load() as load:
            by_packets_only(load)
            stage.run(["tc", "qdisc", "del", "dev", "eth0", "clsact"])
            with load.recovering():
                stage.until(lambda: "kpb_tc_ingress" in filters(stage))
    finally:
        # No kernel learns tcx while it runs, so no proxy looks for filters where there is tcx.
        stage.want_proxy(*XDP)
        for device in stage.chains():
            stage.run(["sh", "-c", f"tc qdisc del dev {device} clsact 2>&1 || true"])

    assert "program_put_back" in stage.log()[since:]
    assert nothing_lost_inside(load)


def filters(stage: KernelStage) -> str:
    try:
        return stage.run(["tc", "filter", "show", "dev", "eth0", "ingress"])
    except AssertionError:  # there is no qdisc
        return ""


@under_load
def test_xdp_a_socket_program_and_all_pins(stage: KernelStage) -> None:
    """Programs of TC do meanwhile what those of XDP and of sockets did.

    A held connection whose port a new one of the same client gets, to the same backend but by
    packets, may be lost: see docs/reliability.md.
    """
    stage.want_proxy(*XDP)
    links = stage.sandbox.pin_path(NODE) / "links"
    stage.until(lambda: list(links.glob("dev-*-xdp-generic")))
    (xdp,), before = links.glob("dev-*-xdp-generic"), pinned(stage)
    since = len(stage.log())
    with stage.load() as load:
        load.expect(held_lost=SAME_PORT)
        with Link.open_pinned(xdp) as link:
            link.detach()
        with Link.open_pinned(links / "kpb_connect4") as link:
            link.detach()
        for path in stage.sandbox.pin_path(NODE).iterdir():
            shutil.rmtree(path)
        with load.recovering():
            stage.until(lambda: "fault=detached place='eth0 xdp'" in stage.log()[since:])
            stage.until(lambda: "xdpgeneric" in stage.run(["ip", "link", "show", "dev", "eth0"]))
            stage.until(lambda: pinned(stage) == before and hooked(stage))


def pinned(stage: KernelStage) -> set[Path]:
    return {path for path in stage.sandbox.pin_path(NODE).rglob("*") if not path.is_dir()}


def hooked(stage: KernelStage) -> bool:
    with Link.open_pinned(stage.sandbox.pin_path(NODE) / "links" / "kpb_connect4") as link:
        return link.info().cgroup_id != 0
