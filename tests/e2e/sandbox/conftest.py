# SPDX-License-Identifier: Apache-2.0
"""Sandboxes for tests, and a picture of the machine to compare before and after."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

import pytest

from kubeproxy_bpf.sandbox import cgroup
from kubeproxy_bpf.sandbox.journal import STATE_ROOT, existing
from kubeproxy_bpf.sandbox.namespace import RUN_NETNS
from kubeproxy_bpf.sandbox.teardown import take_down

PREFIX = "kpbt-sb"


@pytest.fixture(autouse=True, scope="session")
def root() -> None:
    """Skip what needs root where there is none."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces and control groups")


def traces(prefix: str = PREFIX) -> set[str]:
    """Everything on the machine that a sandbox of a test could leave behind."""
    found = {f"netns {entry.name}" for entry in _entries(RUN_NETNS, prefix)}
    groups = cgroup.mount_point()
    found |= {f"cgroup {entry.name}" for entry in _entries(groups, f"kubeproxy-bpf-{prefix}")}
    found |= {f"directory {entry.name}" for entry in _entries(STATE_ROOT, prefix)}
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found |= {f"mount {line.split()[4]}" for line in mounts if f"/{prefix}" in line.split()[4]}
    found |= {f"process {pid}" for pid in _processes(prefix)}
    found |= {f"link {name}" for name in os.listdir("/sys/class/net")}
    return found


def _entries(path: Path, prefix: str) -> list[Path]:
    if not path.is_dir():
        return []
    return [entry for entry in path.iterdir() if entry.name.startswith(prefix)]


def _processes(prefix: str) -> Iterator[int]:
    """Processes in a group of a sandbox of ours, also of one that was removed."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            group = (entry / "cgroup").read_text()
            status = (entry / "status").read_text()
        except OSError:
            continue
        # A zombie has ended; it waits for a parent that is not ours.
        if f"/kubeproxy-bpf-{prefix}" in group and "State:\tZ" not in status:
            yield int(entry.name)


@pytest.fixture
def clean_machine() -> Iterator[set[str]]:
    """What there was before; whatever the test leaves of its own is removed after it."""
    yield traces()
    for name in existing():
        if name.startswith(PREFIX):
            take_down(name)
