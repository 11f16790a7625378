# SPDX-License-Identifier: Apache-2.0
"""The file of a snapshot: either the old one as a whole or the new one as a whole, and private.

A new one is written beside the old, brought to the disk, and takes its name in one step: neither a
crash nor a full disk at any moment leaves half of one. Only a regular file of our own user that
nobody else may write is read, since what it says is served. All of it blocks, so the application
calls it in threads. What is in it is the part of ``snapshot``.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterable, Iterator

from kubeproxy_bpf.api.snapshot import Identity, Snapshot, SnapshotRefused, decode

_BESIDE = ".new"
_RECALLED = ".recalled"
_WRITTEN_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_LATER = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Errors that are no property of the path."""


class SnapshotFile:
    """One path; one process writes it at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._beside = path.with_name(f".{path.name}{_BESIDE}")
        self._note = path.with_name(f".{path.name}{_RECALLED}")

    def prepare(self) -> None:
        """Make the directory if only that is missing, and see that a file can be written there.

        Raises:
            OSError: it cannot, or it would not be private.
        """
        with suppress(FileExistsError):
            self.path.parent.mkdir(mode=0o700)
        with _opened(self.path.parent, os.O_RDONLY | os.O_DIRECTORY) as directory:
            found = os.fstat(directory)
            if found.st_uid not in (0, os.geteuid()) or found.st_mode & _WRITTEN_BY_OTHERS:
                raise PermissionError(errno.EPERM, "others may write to it", str(self.path.parent))
        try:
            with self._fresh():
                pass
        except OSError as error:
            if error.errno not in _LATER:
                raise
        finally:
            # Also what a process left that was killed while it wrote.
            with suppress(OSError):
                self._beside.unlink()

    def write(self, pieces: Iterable[bytes]) -> int:
        """Write another snapshot in place of what is there; return its size.

        Raises:
            OSError: what was there is there still.
        """
        try:
            with self._fresh() as beside:
                size = sum(_write_all(beside, piece) for piece in pieces)
                os.fsync(beside)
            os.replace(self._beside, self.path)
        except BaseException:
            with suppress(OSError):
                self._beside.unlink()
            raise
        with _opened(self.path.parent, os.O_RDONLY | os.O_DIRECTORY) as directory:
            os.fsync(directory)
        return size

    def read(self, identity: Identity) -> Snapshot | None:
        """What the file says about this node and cluster; None: there is no file.

        Raises:
            SnapshotRefused: it is not to be believed.
        """
        try:
            # A pipe must not make us wait for its other end.
            with _opened(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as descriptor:
                found = os.fstat(descriptor)
                _check_private(found)
                with os.fdopen(descriptor, "rb", closefd=False) as source:
                    return decode(source, found.st_size, identity)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise SnapshotRefused("not_private", "it is a symbolic link") from None
            raise SnapshotRefused("unreadable", error.strerror or str(error)) from error

    def note_recalled(self, snapshot: Snapshot) -> None:
        """Tell the next process that what is served is this snapshot, and nothing newer.

        Raises:
            OSError: it will not know.
        """
        self.forget_recalled()
        with _opened(self._note, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600) as descriptor:
            os.write(descriptor, _note_of(snapshot))

    def is_recalled(self, snapshot: Snapshot) -> bool:
        """Whether a process ended while it served this snapshot, and nothing newer."""
        try:
            return self._note.read_bytes() == _note_of(snapshot)
        except OSError:
            return False

    def forget_recalled(self) -> None:
        """What is served is newer.

        Raises:
            OSError: the note is there still.
        """
        if os.path.lexists(self._note):  # a read-only disk refuses also what is in vain
            self._note.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the file, what was left beside it, and the directory if nothing else is there.

        Raises:
            OSError: it is there still.
        """
        for path in (self._beside, self._note, self.path):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.parent.rmdir()

    @contextmanager
    def _fresh(self) -> Iterator[int]:
        """An empty file beside the path, made by nobody else."""
        with suppress(FileNotFoundError):
            self._beside.unlink()
        with _opened(self._beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600) as descriptor:
            yield descriptor


@contextmanager
def _opened(path: Path, flags: int, mode: int = 0) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _note_of(snapshot: Snapshot) -> bytes:
    """Tells one snapshot of a node from the next."""
    return repr(snapshot.written).encode()


def _check_private(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise SnapshotRefused("not_private", "it is no regular file")
    if found.st_uid != os.geteuid():
        raise SnapshotRefused("not_private", f"it belongs to user {found.st_uid}")
    if found.st_mode & _WRITTEN_BY_OTHERS:
        raise SnapshotRefused("not_private", "others may write to it")


def _write_all(descriptor: int, piece: bytes) -> int:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    return len(piece)
