# SPDX-License-Identifier: Apache-2.0
"""The journal of a sandbox: what it is about to make, written before it makes it.

One directory per sandbox below ``/run/kubeproxy-bpf``, which lives as long as the kernel objects do
(until reboot). Each line of ``journal`` is one JSON record, appended by a single write. Whatever
kills the process that builds a sandbox, the journal names everything that may exist, and how to
recognise it as ours. ``teardown`` reads it; nothing else decides what may be removed.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, NamedTuple, cast
from zlib import crc32

from kubeproxy_bpf.sandbox.errors import AlreadyUp, NotUp, SandboxError
from kubeproxy_bpf.sandbox.layout import MAX_INDEX, TOPOLOGIES, Layout, Topology

STATE_ROOT = Path("/run/kubeproxy-bpf")


class Record(NamedTuple):
    """One thing that the sandbox makes on the machine."""

    kind: str
    """"cgroup", "netns" or "bpffs"."""
    name: str
    """Control group below the cgroup2 mount, namespace name, or mount point."""
    proof: int
    """Inode of the network namespace, which it has before it has a name; 0 for the others."""


def directory(name: str) -> Path:
    """Where a sandbox keeps its journal, its logs and its kubeconfig."""
    return STATE_ROOT / name


def existing() -> list[str]:
    """Names of all sandboxes that left a directory, whole or half."""
    if not STATE_ROOT.is_dir():
        return []
    return sorted(entry.name for entry in STATE_ROOT.iterdir() if entry.is_dir())


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Keep every other command away from this sandbox while one changes it."""
    try:
        lock = os.open(directory(name), os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise NotUp(name) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise SandboxError(f"another command is at work on sandbox {name}: try again") from None
    finally:
        os.close(lock)


class Journal:
    """Append-only list of what a sandbox made or was about to make."""

    def __init__(self, name: str) -> None:
        self.path = directory(name) / "journal"

    def write(self, record: Record) -> None:
        """Promise one thing; only after this may it be made."""
        self._append(record._asdict())

    def write_header(self, layout: Layout) -> None:
        header = {"sandbox": layout.name, "index": layout.index, "topology": layout.topology}
        self._append(header)

    def mark_up(self) -> None:
        """Note that the sandbox was built to the end."""
        self._append({"up": True})

    def _append(self, line: dict[str, object]) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(self.path, flags, 0o644)
        try:
            os.write(fd, json.dumps(line).encode() + b"\n")
        finally:
            os.close(fd)

    def _lines(self) -> Iterator[dict[str, object]]:
        """Whole lines only: what a line cut short by a crash promised was not made."""
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return
        for line in text.split("\n")[:-1]:
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def layout(self) -> Layout | None:
        """Layout of the sandbox, or None while not even its header is written."""
        for line in self._lines():
            if "sandbox" in line:
                topology = cast(Topology, line["topology"])
                return Layout(str(line["sandbox"]), cast(int, line["index"]), topology)
        return None

    def records(self) -> list[Record]:
        """Everything promised, in the order of making."""
        lines = (line for line in self._lines() if "kind" in line)
        return [Record(str(x["kind"]), str(x["name"]), cast(int, x["proof"])) for x in lines]

    def is_up(self) -> bool:
        return any(line.get("up") is True for line in self._lines())


def claim(name: str, topology: Topology) -> tuple[Layout, Journal]:
    """Reserve a sandbox name and an address range of its own, and start its journal."""
    if topology not in TOPOLOGIES:
        raise SandboxError(f"unknown topology {topology!r}: choose one of {', '.join(TOPOLOGIES)}")
    STATE_ROOT.mkdir(mode=0o755, exist_ok=True)
    root = os.open(STATE_ROOT, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(root, fcntl.LOCK_EX)
        taken = {layout.index for layout in map(layout_of, existing()) if layout}
        layout = Layout(name, _free_index(name, taken), topology)
        try:
            # parents: the last sandbox may just now take the common directory away with it.
            directory(name).mkdir(mode=0o755, parents=True)
        except FileExistsError:
            raise AlreadyUp(name) from None
        journal = Journal(name)
        journal.write_header(layout)
        return layout, journal
    finally:
        os.close(root)


def layout_of(name: str) -> Layout | None:
    return Journal(name).layout()


def _free_index(name: str, taken: set[int]) -> int:
    """First free address range, starting at one that the name decides: mostly stable over runs."""
    start = crc32(name.encode()) % (MAX_INDEX + 1)
    for step in range(MAX_INDEX + 1):
        index = (start + step) % (MAX_INDEX + 1)
        if index not in taken:
            return index
    raise SandboxError(f"{MAX_INDEX + 1} sandboxes exist already: take one down first")
