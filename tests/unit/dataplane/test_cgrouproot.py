# SPDX-License-Identifier: Apache-2.0
"""Which cgroup is one of pods: the rules in their order, on directories and a made-up /proc."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubeproxy_bpf.dataplane import cgrouproot
from kubeproxy_bpf.dataplane.cgrouproot import (
    Soundness,
    Traffic,
    cgroup_to_hook,
    count_pod_processes,
    judge,
)
from kubeproxy_bpf.dataplane.mounts import cgroup_path
from kubeproxy_bpf.errors import UnsupportedKernel

NO_PODS = Traffic(0, 0, True)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """A cgroup that is no root."""
    (tmp_path / "cgroup.events").touch()
    return tmp_path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What is seen of processes: inside, outside."""
    answer = [(0, 0)]
    monkeypatch.setattr(cgrouproot, "count_pod_processes", lambda cgroup: answer[0])
    return answer


def test_the_root_is_right_whatever_is_seen(tmp_path: Path, seen: list[tuple[int, int]]) -> None:
    """Only it has no events."""
    seen[0] = (0, 9)
    assert judge(tmp_path, Traffic(9, 0, True)).soundness is Soundness.SOUND


@pytest.mark.parametrize(
    "group", ["kubepods", "kubepods.slice", "kubelet.slice/kubelet-kubepods.slice"]
)
def test_a_part_with_the_kubelets_pods_is_right(part: Path, group: str) -> None:
    """With both drivers, and one level down as in kind."""
    assert judge(part, NO_PODS).soundness is Soundness.UNKNOWN
    (part / group).mkdir(parents=True)
    assert judge(part, NO_PODS).soundness is Soundness.SOUND


@pytest.mark.parametrize(
    ("processes", "traffic", "soundness"),
    [
        ((1, 5), Traffic(1, 0, True), Soundness.SOUND),
        ((0, 5), Traffic(1, 7, True), Soundness.WRONG),
        ((0, 5), Traffic(0, 0, True), Soundness.UNKNOWN),
        ((0, 0), Traffic(1, 7, False), Soundness.SOUND),
        ((0, 0), Traffic(1, 0, True), Soundness.DOUBTFUL),
        ((0, 0), Traffic(1, 0, False), Soundness.UNKNOWN),
        ((0, 0), Traffic(0, 0, True), Soundness.UNKNOWN),
    ],
)
def test_what_is_seen_of_pods_decides(
    part: Path,
    seen: list[tuple[int, int]],
    processes: tuple[int, int],
    traffic: Traffic,
    soundness: Soundness,
) -> None:
    """Processes before sockets; without pods on this node nobody's processes count."""
    seen[0] = processes
    assert judge(part, traffic).soundness is soundness


def test_only_processes_of_this_nodes_pods_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the network namespaces that devices lead to; what ends meanwhile is no matter."""
    proc = tmp_path / "proc"
    for pid, namespace, cgroup in (
        ("self", "net:[1]", "/agent"),
        ("10", "net:[1]", "/host"),
        ("11", "net:[2]", "/here/pod"),
        ("12", "net:[2]", "/there/pod"),
        ("13", "net:[3]", "/not/linked"),
        ("14", "net:[2]", "/../../up"),
    ):
        (proc / pid / "ns").mkdir(parents=True)
        (proc / pid / "ns/net").symlink_to(namespace)
        (proc / pid / "cgroup").write_bytes(b"9:cpu:/v1\xff\n0::" + cgroup.encode() + b"\n")
    (proc / "15").mkdir()

    def leads_to(netlink: object, pid: int, namespace: str, where: Path) -> bool:
        return namespace == "net:[2]"

    monkeypatch.setattr(cgrouproot, "_leads_to", leads_to)
    for root, counts in (("/here", (1, 2)), ("/", (2, 1)), ("/elsewhere", (0, 3))):
        monkeypatch.setattr(cgrouproot, "cgroup_path", lambda cgroup, r=root: Path(r))
        assert count_pod_processes(tmp_path, proc) == counts, root


def test_a_wished_cgroup_must_be_one(tmp_path: Path) -> None:
    """It is said at the start."""
    with pytest.raises(UnsupportedKernel, match="is no cgroup"):
        cgroup_to_hook(str(tmp_path))
    (tmp_path / "cgroup.procs").touch()
    assert cgroup_to_hook(str(tmp_path)) == tmp_path


def test_the_path_within_the_tree_counts_from_the_mounts_root(tmp_path: Path) -> None:
    """A container may see a part, or a part of what its own namespace calls the root."""
    mountinfo = tmp_path / "mountinfo"
    line = "30 1 0:26 {0} {1} rw - cgroup2 cgroup2 rw\n"
    whole, part = tmp_path / "whole", tmp_path / "part"
    mountinfo.write_text(line.format("/", whole) + line.format("/../..", part))
    assert str(cgroup_path(whole / "a/b", mountinfo)) == "/a/b"
    assert str(cgroup_path(part / "a", mountinfo)) == "/../../a"
    assert cgroup_path(tmp_path, mountinfo) is None
