# SPDX-License-Identifier: Apache-2.0
"""A file descriptor with an owner: closed once, by its owner, in the process that opened it.

Base of maps, programs and links; knows nothing of what the descriptor stands for.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from . import _native
from ._structs import ObjectHead
from .closing import Closing
from .errors import check


class OwnedFd(Closing):
    """One descriptor of a kernel object."""

    __slots__ = ("_fd", "_pid", "__weakref__")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pid = os.getpid()

    @property
    def fd(self) -> int:
        """The descriptor, valid until close()."""
        if self._fd < 0:
            raise ValueError(f"{type(self).__name__} is closed")
        return self._fd

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def close(self) -> None:
        """Give the descriptor back; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    # Bound early: module globals may be gone when the interpreter ends.
    def __del__(self, _getpid: Any = os.getpid, _close: Any = os.close) -> None:
        # A forked child may have closed this number and opened something else under it.
        if getattr(self, "_fd", -1) >= 0 and self._pid == _getpid():
            fd, self._fd = self._fd, -1
            _close(fd)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} fd={self._fd}>"


def fill_info(fd: int, info: ctypes.Structure) -> None:
    """Let the kernel fill an info struct; fields that it does not know stay zero."""
    length = ctypes.c_uint32(ctypes.sizeof(info))
    result = _native.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(length))
    check(result, "bpf_obj_get_info_by_fd")


def object_id(fd: int) -> int:
    """The id of a map, program or link."""
    head = ObjectHead()
    fill_info(fd, head)
    return int(head.id)


def pinned_id(path: str | os.PathLike[str]) -> int:
    """The id of the map, program or link that is pinned at a path."""
    with OwnedFd(open_pin(path)) as pinned:
        return object_id(pinned.fd)


def pin(fd: int, path: str | os.PathLike[str]) -> None:
    """Pin a kernel object at a path on a BPF file system."""
    check(_native.bpf_obj_pin(fd, os.fsencode(path)), "bpf_obj_pin", os.fspath(path))


def open_pin(path: str | os.PathLike[str]) -> int:
    """Open what is pinned at a path; the caller owns the descriptor."""
    return check(_native.bpf_obj_get(os.fsencode(path)), "bpf_obj_get", os.fspath(path))
