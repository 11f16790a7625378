# SPDX-License-Identifier: Apache-2.0
"""Finds the cgroup to hook, and judges whether it is one that pods' sockets belong to.

Programs at a cgroup run for the sockets of its own tree alone. In a container, what looks like the
root may be the container's own group, in which the agent itself sits: everything is attached, the
canary passes, and no pod is served. The rules, the first that applies decides:

1. It is the root of all groups: sound.
2. It holds a group of the kubelet's pods: sound.
3. Processes of this node's pods can be seen: sound if one of them is inside, wrong if all of them
   are outside. They are those in network namespaces that a device of ours leads to.
4. Sockets of other network namespaces passed the hooks: sound.
5. There are pods, and none did for a while: doubtful, a warning, since they may be silent.

Otherwise nobody knows. Called by ``instance`` and the audit, in threads; pyroute2 is imported late.
"""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Iterator, NamedTuple

from kubeproxy_bpf.dataplane.mounts import cgroup_path, find_cgroup_root, is_real_root
from kubeproxy_bpf.errors import UnsupportedKernel

_PODS = "kubepods"
"""In the name of the kubelet's group for pods, with both cgroup drivers."""
_DEPTH = 3
_PROC = Path("/proc")


class Soundness(Enum):
    SOUND = "sound"
    WRONG = "wrong"
    DOUBTFUL = "doubtful"
    UNKNOWN = "unknown"


class Judgement(NamedTuple):
    soundness: Soundness
    reason: str


class Traffic(NamedTuple):
    """What the packet path and the programs know of pods."""

    pods: int
    """Devices of this node that lead to pods."""
    from_pods: int
    """Hook runs for sockets of other network namespaces."""
    settled: bool
    """Pods had time to connect to something."""


def cgroup_to_hook(wish: str) -> Path:
    """The cgroup that the operator wants, else the root that is mounted here.

    One that cannot be hooked is told at the start, not after a sync.
    """
    if not wish:
        return find_cgroup_root()
    root = Path(wish)
    if not (root / "cgroup.procs").exists():
        raise UnsupportedKernel("cgroup v2", f"--bpf-cgroup-root {root} is no cgroup")
    return root


def judge(cgroup: Path, traffic: Traffic) -> Judgement:
    """Apply the rules."""
    if is_real_root(cgroup):
        return Judgement(Soundness.SOUND, "it is the root of all groups")
    if holds_pods(cgroup):
        return Judgement(Soundness.SOUND, "the kubelet's pods are below it")
    inside, outside = (0, 0) if not traffic.pods else count_pod_processes(cgroup)
    if inside:
        return Judgement(Soundness.SOUND, f"{inside} processes of pods are below it")
    if outside:
        return Judgement(Soundness.WRONG, f"{outside} processes of pods are outside of it")
    if traffic.from_pods:
        return Judgement(Soundness.SOUND, "sockets of pods pass the hooks")
    if traffic.pods and traffic.settled:
        return Judgement(
            Soundness.DOUBTFUL, f"{traffic.pods} devices lead to pods, of which no socket passed"
        )
    return Judgement(Soundness.UNKNOWN, "it is a part of the tree, and no pod was seen")


def holds_pods(cgroup: Path, depth: int = _DEPTH) -> bool:
    """Whether a group of the kubelet's pods is below."""
    try:
        below = [Path(entry.path) for entry in os.scandir(cgroup) if entry.is_dir()]
    except OSError:  # it went meanwhile
        return False
    if any(_PODS in path.name for path in below):
        return True
    return depth > 1 and any(holds_pods(path, depth - 1) for path in below)


def count_pod_processes(cgroup: Path, proc: Path = _PROC) -> tuple[int, int]:
    """Processes of this node's pods that belong to a cgroup, and those that do not."""
    root = cgroup_path(cgroup)
    if root is None:
        return 0, 0
    inside = outside = 0
    for path in _cgroups_of_pods(proc):
        if path.parts[: len(root.parts)] == root.parts and ".." not in path.parts[:2]:
            inside += 1
        else:
            outside += 1
    return inside, outside


def _cgroups_of_pods(proc: Path) -> Iterator[Path]:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    seen: dict[str, bool] = {}
    with IPRoute() as netlink:
        for directory in proc.iterdir():
            if not directory.name.isdecimal():
                continue
            try:
                namespace = os.readlink(directory / "ns/net")
                if namespace not in seen:
                    seen[namespace] = _leads_to(netlink, int(directory.name), namespace, proc)
                if seen[namespace]:
                    yield _unified(directory / "cgroup")
            except (OSError, NetlinkError):  # it ended, or is not ours to look at
                continue


def _leads_to(netlink: object, pid: int, namespace: str, proc: Path) -> bool:
    """Whether a device of this network namespace has its other end in that of a process."""
    if namespace == os.readlink(proc / "self/ns/net"):
        return False
    answer = netlink.get_netnsid(pid=pid)  # type: ignore[attr-defined]
    return answer is not None and int(answer["nsid"]) < 2**31


def _unified(file: Path) -> Path:
    lines = os.fsdecode(file.read_bytes()).splitlines()  # pods may name their groups as they like
    found = (line[3:] for line in lines if line.startswith("0::"))
    return Path(next(found, "/"))
