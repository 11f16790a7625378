# SPDX-License-Identifier: Apache-2.0
"""The file of a snapshot after what happens to disks and to those who write on them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Sequence

import pytest

from kubeproxy_bpf.api.decode import Kind
from kubeproxy_bpf.api.snapshot import Identity, encode
from kubeproxy_bpf.api.snapshot_file import SnapshotFile
from tests.fix_objects import service

OURS = Identity("node-a", "https://192.0.2.1:6443")


def pieces(count: int, name_length: int = 4) -> Iterator[bytes]:
    names = (os.urandom(name_length // 2).hex() for _ in range(count))
    return encode(OURS, 1.0, {Kind.SERVICE: tuple(service(name=name) for name in names)})


def held(file: SnapshotFile) -> int:
    """How many Services the file has."""
    snapshot = file.read(OURS)
    assert snapshot is not None
    return len(snapshot.objects[Kind.SERVICE])


@contextmanager
def writer(file: SnapshotFile, contents: Sequence[Sequence[bytes]]) -> Iterator[None]:
    """A process that writes these snapshots in turn, and is killed."""
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                for content in contents:
                    file.write(content)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    assert signal.SIGKILL == os.WTERMSIG(status), "it wrote to its end"


def test_kill_at_any_moment_never_leaves_a_broken_one(tmp_path: Path) -> None:
    """Each time the file is one of those that were written, as a whole."""
    file = SnapshotFile(tmp_path / "kept" / "snapshot")
    file.prepare()
    file.write(pieces(1))
    chance = random.Random(5)
    contents = [list(pieces(count)) for count in (500, 1)]
    seen = set()
    for _ in range(60):
        with writer(file, contents):
            time.sleep(chance.random() * 0.01)
        seen.add(held(file))
    assert {1, 500} == seen
    file.prepare()
    assert ["snapshot"] == os.listdir(file.path.parent)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a small snapshot."""
    made = tmp_path / "disk"
    made.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=32k,mode=700,nr_inodes=8", "none", str(made)]
    subprocess.run(argv, check=True)
    yield made
    subprocess.run(["umount", str(made)], check=True)


@pytest.mark.root
def test_a_full_disk_leaves_the_old_one(disk: Path) -> None:
    """It is readable as before, and one that fits still takes its place."""
    file = SnapshotFile(disk / "snapshot")
    file.prepare()
    file.write(pieces(10))
    (disk / "other").write_bytes(os.urandom(20_000))
    with pytest.raises(OSError, match="No space left"):
        file.write(pieces(100, name_length=800))
    assert 10 == held(file)
    assert {"other", "snapshot"} == set(os.listdir(disk))
    with pytest.raises(OSError, match="No space left"):
        for number in range(8):
            (disk / f"empty-{number}").touch()
    file.prepare()  # a full disk is no reason to give up for ever
    (disk / "empty-0").unlink()
    file.write(pieces(9))
    assert 9 == held(file)


@pytest.mark.root
def test_a_disk_that_is_read_only_is_told_at_once(disk: Path) -> None:
    """What it holds is believed all the same."""
    file = SnapshotFile(disk / "snapshot")
    file.write(pieces(10))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(OSError, match="Read-only"):
        file.prepare()
    assert 10 == held(file)
