# SPDX-License-Identifier: Apache-2.0
"""Take a sandbox down from its journal, whole or half built, and say what had to stay.

Only what the journal promised is looked at, and each thing is checked to be ours before it goes: a
control group carries our mark, a namespace has the inode that was announced, a bpffs is mounted
inside the sandbox's own directory. Running it twice is harmless.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Callable

from kubeproxy_bpf.sandbox import cgroup, namespace
from kubeproxy_bpf.sandbox.journal import STATE_ROOT, Journal, Record, directory, locked


def take_down(name: str) -> list[str]:
    """Remove a sandbox; returns a sentence for each thing that is not ours and so stays."""
    with locked(name):
        records = Journal(name).records()
        kept: list[str] = []
        # Processes first, since they hold everything else; pins before namespaces, so that no
        # program runs without its network.
        steps: tuple[tuple[str, Callable[[Record], str | None]], ...] = (
            ("cgroup", _end_processes),
            ("bpffs", _remove_bpffs),
            ("netns", _remove_netns),
            ("cgroup", _remove_cgroup),
        )
        for kind, step in steps:
            told = (step(record) for record in records if record.kind == kind)
            kept += [text for text in told if text]
        shutil.rmtree(directory(name))
    _remove_root()
    return kept


def _end_processes(record: Record) -> None:
    group = cgroup.mount_point() / record.name
    if cgroup.is_marked(group):
        cgroup.end_all(group)


def _remove_bpffs(record: Record) -> None:
    # Below our own directory, where nobody else mounts; with the mount every pin in it goes, and
    # with the pins the links.
    if namespace.is_mounted(Path(record.name)):
        namespace.unmount(record.name)


def _remove_netns(record: Record) -> str | None:
    if not namespace.path_of(record.name).exists():
        return None
    if not namespace.is_ours(record.name, record.proof):
        return f"network namespace {record.name} is not the one that this sandbox made"
    namespace.remove(record.name)
    return None


def _remove_cgroup(record: Record) -> None:
    group: Path = cgroup.mount_point() / record.name
    if cgroup.is_marked(group):
        cgroup.remove_tree(group)
    else:
        cgroup.remove_empty(group)


def _remove_root() -> None:
    """Drop the common directory with the last sandbox."""
    try:
        STATE_ROOT.rmdir()
    except OSError:
        return
