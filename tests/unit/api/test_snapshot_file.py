# SPDX-License-Identifier: Apache-2.0
"""The file of a snapshot is the old one or the new one, private, and never followed elsewhere."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Callable, Iterator

import pytest

from kubeproxy_bpf.api.decode import Kind
from kubeproxy_bpf.api.snapshot import MAGIC, VERSION, Identity, SnapshotRefused, encode
from kubeproxy_bpf.api.snapshot_file import SnapshotFile
from tests.fix_objects import service

OURS = Identity("node-a", "https://192.0.2.1:6443")


@pytest.fixture
def file(tmp_path: Path) -> SnapshotFile:
    made = SnapshotFile(tmp_path / "kept" / "snapshot")
    made.prepare()
    return made


def pieces(count: int = 1) -> Iterator[bytes]:
    found = tuple(service(name=f"s-{number}") for number in range(count))
    return encode(OURS, float(count), {Kind.SERVICE: found})


def held(file: SnapshotFile) -> int:
    """How many Services the file has."""
    snapshot = file.read(OURS)
    assert snapshot is not None
    return len(snapshot.objects[Kind.SERVICE])


def refusal(file: SnapshotFile) -> SnapshotRefused:
    with pytest.raises(SnapshotRefused) as caught:
        file.read(OURS)
    return caught.value


def test_file_and_directory_are_the_owners_alone(file: SnapshotFile) -> None:
    """Names and addresses of Services are nobody else's business."""
    assert sum(map(len, pieces())) == file.write(pieces())
    assert 0o600 == stat.S_IMODE(file.path.stat().st_mode)
    assert 0o700 == stat.S_IMODE(file.path.parent.stat().st_mode)
    assert ["snapshot"] == os.listdir(file.path.parent)


def test_no_file_is_no_snapshot(file: SnapshotFile) -> None:
    """As at the first start: not an error."""
    assert file.read(OURS) is None


def test_a_write_that_fails_leaves_the_old_one(file: SnapshotFile) -> None:
    """At whatever piece; and nothing stays beside it."""

    def failing() -> Iterator[bytes]:
        yield from pieces(2)
        raise OSError(28, "No space left on device")

    file.write(pieces(3))
    with pytest.raises(OSError):
        file.write(failing())
    assert 3 == held(file)
    assert ["snapshot"] == os.listdir(file.path.parent)


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, os.urandom(5000), MAGIC])
def test_a_file_that_is_none_is_refused(file: SnapshotFile, content: bytes) -> None:
    """Zero bytes, as file systems leave them after a crash, and anything else."""
    file.path.write_bytes(content)
    assert "corrupt" == refusal(file).reason


@pytest.mark.parametrize(
    ("head", "detail"),
    [
        (b"", "does not begin as a snapshot"),
        (MAGIC + VERSION.to_bytes(4, "big"), f"{1 << 30} bytes are too many"),
    ],
)
def test_a_gigabyte_is_refused_and_not_read(file: SnapshotFile, head: bytes, detail: str) -> None:
    """However it begins."""
    file.path.write_bytes(head)
    os.truncate(file.path, 1 << 30)
    assert detail in str(refusal(file))


def _link(path: Path) -> None:
    real = path.with_name("real")
    path.rename(real)
    path.symlink_to(real)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    "spoil", [_link, _directory, _pipe, lambda p: p.chmod(0o620), lambda p: p.chmod(0o602)]
)
def test_what_others_might_have_written_is_not_believed(
    file: SnapshotFile, spoil: Callable[[Path], None]
) -> None:
    """A link, no regular file, or one that others may write."""
    file.write(pieces())
    spoil(file.path)
    assert "not_private" == refusal(file).reason


def test_the_file_of_another_user_is_not_believed(
    file: SnapshotFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if its content is good."""
    file.write(pieces())
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert "not_private" == refusal(file).reason


def test_a_link_where_the_new_one_is_written_is_not_followed(
    file: SnapshotFile, tmp_path: Path
) -> None:
    """It is replaced, and what it leads to stays."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (file.path.parent / ".snapshot.new").symlink_to(victim)
    file.write(pieces())
    assert "precious" == victim.read_text() and 1 == held(file)


def test_what_a_killed_process_left_is_removed(file: SnapshotFile) -> None:
    """Half a snapshot takes room and is of no use."""
    (file.path.parent / ".snapshot.new").write_text("half")
    file.prepare()
    assert not os.listdir(file.path.parent)


@pytest.mark.parametrize(
    "path", ["missing/kept/snapshot", "a-file/snapshot", "open/snapshot", "group/snapshot"]
)
def test_a_path_that_cannot_be_used_is_told_at_once(tmp_path: Path, path: str) -> None:
    """Only one directory is made, and none is used in which others write."""
    (tmp_path / "a-file").write_text("")
    for name, mode in (("open", 0o777), ("group", 0o770)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    with pytest.raises(OSError):
        SnapshotFile(tmp_path / path).prepare()


def test_what_is_removed_leaves_nothing(file: SnapshotFile) -> None:
    """Nor is it an error that there is nothing; what is not ours stays."""
    file.write(pieces())
    (file.path.parent / ".snapshot.new").write_text("half")
    file.remove()
    assert not file.path.parent.exists()
    file.remove()
    file.prepare()
    file.write(pieces())
    (file.path.parent / "other").write_text("")
    file.remove()
    assert ["other"] == os.listdir(file.path.parent)
