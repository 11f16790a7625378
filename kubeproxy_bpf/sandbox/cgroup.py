# SPDX-License-Identifier: Apache-2.0
"""Control groups of a sandbox: make them, end what runs in them, remove them.

The group is also the proof of ownership of a process: everything that the sandbox starts joins its
group before it runs, and nothing else does. So processes are ended by membership, checked through a
pidfd, and never by a remembered number.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Iterator

from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.sandbox.errors import Clash, SandboxError

_END_TIMEOUT_S = 30.0
_MARK = "trusted.kubeproxy-bpf"


def mount_point() -> Path:
    """Find where cgroup2 is mounted; its place differs between distributions."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        separator = fields.index("-")
        if fields[separator + 1] == "cgroup2":
            return Path(fields[4])
    raise UnsupportedKernel("cgroup v2", "mount it, or boot with the unified hierarchy")


def create(root: Path, name: str) -> None:
    """Make a group and mark it as ours."""
    try:
        (root / name).mkdir(mode=0o755)
    except FileExistsError:
        raise Clash("control group", name) from None
    os.setxattr(root / name, _MARK, b"1")


def is_marked(group: Path) -> bool:
    """Whether we made the group: no name alone gives the right to end processes."""
    try:
        return os.getxattr(group, _MARK) == b"1"
    except OSError:
        return False


def members(group: Path) -> list[int]:
    """Process ids in the group itself, without its children."""
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _tree(group: Path) -> Iterator[Path]:
    """The group and everything below it, children first."""
    for parent, _, _ in os.walk(group, topdown=False):
        yield Path(parent)


def population(group: Path) -> list[int]:
    """Process ids in the group and below."""
    return [pid for each in _tree(group) for pid in members(each)]


def end_all(group: Path) -> None:
    """Kill every process in the group and below, and wait until they are gone."""
    if os.getpid() in population(group):
        raise SandboxError("this command runs inside the sandbox: leave it first")
    deadline = time.monotonic() + _END_TIMEOUT_S
    while pids := population(group):
        for pid in pids:
            _end(group, pid)
        if time.monotonic() > deadline:
            raise SandboxError(f"processes in {group} do not end: {sorted(pids)}")
        time.sleep(0.005)


def _end(group: Path, pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The number may have found a new owner since it was read; the pidfd cannot change hands.
        if pid in population(group):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)


def remove_tree(group: Path) -> None:
    """Remove a marked group and all groups below it; no process may be left in them."""
    deadline = time.monotonic() + _END_TIMEOUT_S
    for each in _tree(group):
        while each.exists():
            try:
                each.rmdir()
            except OSError as error:
                # A process that just died leaves its group a moment later.
                if time.monotonic() > deadline:
                    raise SandboxError(f"control group {each}: {error.strerror}") from None
                time.sleep(0.005)


def remove_empty(group: Path) -> None:
    """Remove a group whose maker died before it could mark it; one that is in use stays."""
    try:
        group.rmdir()
    except OSError:
        return
