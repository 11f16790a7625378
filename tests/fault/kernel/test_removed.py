# SPDX-License-Identifier: Apache-2.0
"""A foreign tool removes what is ours: it is noticed and put back, and little is lost meanwhile."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from kubeproxy_bpf.libbpf import Link
from tests.fault.kernel.node import NODE, KernelStage
from tests.fault.load.offered import Load, under_load

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

PER_SECOND = 350
"""Conversations by packets that begin in a second."""
HELD_OUTSIDE = 30
BLIND_S = 2
"""The uplink is glanced at each half second; a busy machine may take longer."""
NO_TCX = (
    f"{sys.executable} -c 'import kubeproxy_bpf.dataplane.devices as d; d.has_tcx = lambda: False;"
    " from kubeproxy_bpf.cli import main; main()'"
)


def by_packets_only(load: Load) -> None:
    """Packets that meet no program of ours come to the node itself, which has no such port."""
    load.expect(refused=BLIND_S * PER_SECOND, reset=HELD_OUTSIDE, held_lost=HELD_OUTSIDE)


def nothing_lost_inside(load: Load) -> bool:
    """The first source is that of the sockets, and the first losses are told in words."""
    return not any(each.startswith("shell-1") for each in load.report.samples)


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
def test_filters_and_their_qdisc(stage: KernelStage) -> None:
    """On a kernel without tcx: netlink tells of it at once."""
    stage.change_proxy(command=NO_TCX)
    stage.until(lambda: set(stage.chains().values()) == {(0, 0)})
    with stage.load() as load:
        by_packets_only(load)
        stage.run(["tc", "qdisc", "del", "dev", "eth0", "clsact"])
        with load.recovering():
            stage.until(lambda: "kpb_tc_ingress" in filters(stage))

    assert "program_put_back" in stage.log()
    assert nothing_lost_inside(load)


def filters(stage: KernelStage) -> str:
    try:
        return stage.run(["tc", "filter", "show", "dev", "eth0", "ingress"])
    except AssertionError:  # there is no qdisc
        return ""


@under_load
def test_xdp(stage: KernelStage) -> None:
    """The programs of TC behind it do the same, so nobody notices."""
    stage.change_proxy("--bpf-xdp=generic")
    pin = next((stage.sandbox.pin_path(NODE) / "links").glob("dev-*-xdp-generic"))
    with stage.load() as load:
        with Link.open_pinned(pin) as link:
            link.detach()
        assert "xdpgeneric" not in stage.run(["ip", "link", "show", "dev", "eth0"])
        with load.recovering():
            stage.until(lambda: "xdpgeneric" in stage.run(["ip", "link", "show", "dev", "eth0"]))


def test_socket_programs_and_all_pins(stage: KernelStage, long: bool) -> None:
    """Packets serve instead of sockets meanwhile; every ten seconds it is put back."""
    removed_together(stage)


@under_load
def removed_together(stage: KernelStage) -> None:
    before = pinned(stage)
    with stage.load() as load:
        with Link.open_pinned(stage.sandbox.pin_path(NODE) / "links" / "kpb_connect4") as link:
            link.detach()
        for path in stage.sandbox.pin_path(NODE).iterdir():
            shutil.rmtree(path)
        with load.recovering():
            stage.until(lambda: pinned(stage) == before and hooked(stage))


def pinned(stage: KernelStage) -> set[Path]:
    return {path for path in stage.sandbox.pin_path(NODE).rglob("*") if not path.is_dir()}


def hooked(stage: KernelStage) -> bool:
    with Link.open_pinned(stage.sandbox.pin_path(NODE) / "links" / "kpb_connect4") as link:
        return link.info().cgroup_id != 0
