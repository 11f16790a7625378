# SPDX-License-Identifier: Apache-2.0
"""Limits that a process meets: a file system without room, a control group without memory."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

_FILLED = "filler"


class SmallDisk:
    """A mounted file system of a few pages, which can be filled up and emptied."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def fill(self) -> None:
        """Leave no room at all."""
        with (self.directory / _FILLED).open("ab", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                return

    def empty(self) -> None:
        (self.directory / _FILLED).unlink()


@contextmanager
def small_disk(directory: Path, kilobytes: int = 1024) -> Iterator[SmallDisk]:
    """Mount one; it goes with the block."""
    directory.mkdir()
    mount = [
        "mount",
        "-t",
        "tmpfs",
        "-o",
        f"size={kilobytes}k,mode=700",
        "kpbt-disk",
        str(directory),
    ]
    subprocess.run(mount, check=True)
    try:
        yield SmallDisk(directory)
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)
        directory.rmdir()


class MemoryGroup:
    """A control group of the memory controller, v2 or v1, that a program can be started in."""

    def __init__(self, path: Path, unified: bool) -> None:
        self.path = path
        self._limit = "memory.max" if unified else "memory.limit_in_bytes"
        self._used = "memory.current" if unified else "memory.usage_in_bytes"
        self._events = "memory.events" if unified else "memory.oom_control"

    def used(self) -> int:
        return int((self.path / self._used).read_text())

    def limit(self, size: int) -> None:
        (self.path / self._limit).write_text(str(size))

    def killed(self) -> int:
        """How many processes ended because there was no memory."""
        lines = (self.path / self._events).read_text().splitlines()
        (count,) = (line.split()[1] for line in lines if line.startswith("oom_kill "))
        return int(count)

    def command(self, program: str) -> str:
        """What starts a program in this group; the usual arguments follow."""
        script = f'echo $$ >"{self.path}/cgroup.procs" && exec {program} "$@"'
        return f"sh -c '{script}' in-group"


def memory_root() -> tuple[Path, bool]:
    """Where groups of the memory controller are made, and whether that is cgroup v2."""
    mounts = [line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = [(Path(left.split()[4]), right.split()) for left, right in mounts]
    for path, right in found:
        if right[0] == "cgroup2" and "memory" in (path / "cgroup.controllers").read_text().split():
            return path, True
    for path, right in found:
        if right[0] == "cgroup" and "memory" in right[2].split(","):
            return path, False
    raise AssertionError("no cgroup hierarchy has the memory controller")


@contextmanager
def memory_group(name: str) -> Iterator[MemoryGroup]:
    """Make a group; it goes with the block, and what is still in it."""
    root, unified = memory_root()
    if unified:
        (root / "cgroup.subtree_control").write_text("+memory")
    group = MemoryGroup(root / name, unified)
    group.path.mkdir()
    try:
        yield group
    finally:
        for pid in (group.path / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        _remove(group.path)


def _remove(path: Path) -> None:
    """A process that ends leaves its group a moment later."""
    deadline = time.monotonic() + 10
    while True:
        try:
            os.rmdir(path)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
