# SPDX-License-Identifier: Apache-2.0
"""One writer per instance: an abstract unix socket in the node's network namespace, held for life.

The name goes away with the process, however it ends, and needs no file system: it works in the
stock DaemonSet too. Who comes second connects to the holder's socket, which nobody accepts, and so
learns from the kernel when the holder ends. It writes nothing before it holds the name itself.

Any process of that namespace can take the name, also one that is no proxy: a user of the node, or a
pod in its network. Then no proxy starts, which is unhealthy, and what serves goes on serving. The
kernel tells whose process it is, and the log passes it on; a lock in the file system would not help
those who have no file system in common, and who may write where others lock can do the same.

Such a name says nothing to another network namespace, whose proxy may see the same pins: nodes that
are containers, say, with the file system of their machine. So who pins also holds a lock on the
directory of pins.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import socket
import struct
from pathlib import Path
from typing import Callable

from kubeproxy_bpf.errors import WriterBusy

_RETRY_S = 1.0
_CREDENTIALS = struct.Struct("=3i")
_PINS_RETRY_S = 0.2
"""Nobody tells when a lock on a directory is given up."""
_WAITERS = 64


class WriterLock:
    """The right to write the maps of one instance (its pin path, or another unique name)."""

    def __init__(self, instance: str) -> None:
        self.instance = instance
        digest = hashlib.sha256(instance.encode()).hexdigest()[:32]
        self._name = f"\0kube-proxy-bpf/{digest}"
        self._socket: socket.socket | None = None

    @property
    def held(self) -> bool:
        """Whether this process is the writer."""
        return self._socket is not None

    def try_acquire(self) -> bool:
        """Take the name if it is free."""
        if self._socket is not None:
            return True
        mine = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            mine.bind(self._name)
            mine.listen(_WAITERS)
        except OSError as error:
            mine.close()
            if error.errno == errno.EADDRINUSE:
                return False
            raise
        self._socket = mine
        return True

    async def acquire(self, busy: Callable[[WriterBusy], None] = lambda error: None) -> None:
        """Wait until the name is ours; ``busy`` is told once if somebody else has it."""
        told = False
        while not self.try_acquire():
            if not told:
                busy(WriterBusy(self.instance, self._holder()))
                told = True
            await self._holder_gone()
            if not self.try_acquire():
                await asyncio.sleep(_RETRY_S)  # it only hung up on us

    def _holder(self) -> str:
        """Whose the name is, as the kernel has it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
            asking.setblocking(False)
            try:
                asking.connect(self._name)
                raw = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            except OSError:  # gone, or too busy
                return ""
        pid, user, _ = _CREDENTIALS.unpack(raw)
        return f"process {pid} of user {user}"

    def release(self) -> None:
        """Give the name up; a process that ends does so too."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _holder_gone(self) -> None:
        waiting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        waiting.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(waiting, self._name)
            await loop.sock_recv(waiting, 1)
        except ConnectionError:
            pass  # gone in this moment
        except OSError:
            await asyncio.sleep(_RETRY_S)  # more waiters than the holder's queue takes
        finally:
            waiting.close()


class PinLock:
    """The right to use a directory of pins, among all processes that see it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = -1

    def try_acquire(self) -> bool:
        """Take the directory if it is free; make it if somebody has just removed it."""
        if self._fd >= 0:
            return True
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A cleanup may have removed it meanwhile, and another proxy made a new one.
            current = os.path.samestat(os.fstat(fd), os.stat(self._directory))
        except (BlockingIOError, FileNotFoundError):
            current = False
        except OSError:
            os.close(fd)
            raise
        if not current:
            os.close(fd)
            return False
        self._fd = fd
        return True

    async def acquire(self, busy: Callable[[WriterBusy], None] = lambda error: None) -> None:
        """Wait until the directory is ours; ``busy`` is told once if somebody else has it."""
        told = False
        while not self.try_acquire():
            if not told:
                busy(WriterBusy(str(self._directory)))
                told = True
            await asyncio.sleep(_PINS_RETRY_S)

    def is_current(self) -> bool:
        """Whether the directory that stands there now is ours; somebody may have made it anew."""
        if self._fd < 0:
            return False
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self._directory))
        except OSError:
            return False

    def renew(self) -> bool:
        """Take the directory that stands there now, if it is not ours; False if another has it.

        Raises:
            OSError: there is none, and none can be made.
        """
        if self.is_current():
            return True
        self.release()  # of one that nobody finds any more
        return self.try_acquire()

    def release(self) -> None:
        """Give it up; a process that ends does so too."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
