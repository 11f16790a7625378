# SPDX-License-Identifier: Apache-2.0
"""What of a sandbox is on the machine, found by looking, not by asking the journal.

The demo and the tests look before and after, to show that nothing is left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

from kubeproxy_bpf.sandbox import cgroup
from kubeproxy_bpf.sandbox.journal import STATE_ROOT
from kubeproxy_bpf.sandbox.namespace import RUN_NETNS


def traces(prefix: str) -> set[str]:
    """Namespaces, groups, mounts, directories and processes of sandboxes so named."""
    found = {f"network namespace {name}" for name in _names(RUN_NETNS, prefix)}
    groups = cgroup.mount_point()
    found |= {f"control group {name}" for name in _names(groups, f"kubeproxy-bpf-{prefix}")}
    found |= {f"directory {STATE_ROOT / name}" for name in _names(STATE_ROOT, prefix)}
    found |= {f"mount {path}" for path in _mounts() if path.startswith(f"{STATE_ROOT}/{prefix}")}
    return found | {f"process {pid}" for pid in _processes(prefix)}


def _names(directory: Path, prefix: str) -> list[str]:
    if not directory.is_dir():
        return []
    return [entry.name for entry in directory.iterdir() if entry.name.startswith(prefix)]


def _mounts() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split(" ", 5)[4] for line in lines]


def _processes(prefix: str) -> Iterator[int]:
    """Processes in a group of such a sandbox, also in one that is removed already."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            group = (entry / "cgroup").read_text()
            status = (entry / "status").read_text()
        except OSError:
            continue
        # A zombie has ended; it only waits for a parent that is not ours.
        if f"/kubeproxy-bpf-{prefix}" in group and "State:\tZ" not in status:
            yield int(entry.name)
