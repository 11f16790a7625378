# SPDX-License-Identifier: Apache-2.0
"""Named network namespaces: make, recognise, enter and remove them.

A namespace is made in a thread of its own, so that no other thread ever stands in it, and its inode
is known before its name appears under ``/run/netns``: that is how ``remove`` tells ours from one
that somebody else made under the same name. Names live where ``ip netns`` looks for them; but `ip
netns exec` is not used, since it hides bpffs and cgroup2 behind a fresh /sys.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, TypeVar

from kubeproxy_bpf.sandbox.errors import Clash, CommandFailed

T = TypeVar("T")

RUN_NETNS = Path("/run/netns")

_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_SHARED = 0x100000
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]


def _check(result: int, call: str) -> None:
    if result != 0:
        raise CommandFailed(call, os.strerror(ctypes.get_errno()))


def mount(source: str, target: str, fstype: str | None, flags: int = 0) -> None:
    kind = fstype.encode() if fstype else None
    call = f"mount {source} on {target}"
    _check(_libc.mount(source.encode(), target.encode(), kind, flags, None), call)


def unmount(target: str) -> None:
    """Take a mount away now; the kernel frees it when its last user is gone."""
    _check(_libc.umount2(target.encode(), _MNT_DETACH), f"umount {target}")


def is_mounted(path: Path) -> bool:
    """Whether something is mounted there.

    ``os.path.ismount`` does not see a directory that is bound to itself, and binding ``/run/netns``
    again each time would double the mounts in it, since it is shared.
    """
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split(" ", 5)[4] == str(path) for line in lines)


def path_of(name: str) -> Path:
    return RUN_NETNS / name


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back the signals that end a command: nothing may be made while it is taken down."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def in_thread(function: Callable[[], T]) -> T:
    """Run in a thread that ends with the call: it may leave the network namespace for good."""
    answer: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(function())
        except BaseException as error:  # carried over to the caller
            failure.append(error)

    thread = threading.Thread(target=run, name="netns")
    with _uninterrupted():
        thread.start()
        thread.join()
    if failure:
        raise failure[0]
    return answer[0]


def enter(name: str) -> None:
    """Move the calling thread into a named namespace."""
    fd = os.open(path_of(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, _CLONE_NEWNET), f"setns {name}")
    finally:
        os.close(fd)


def call(name: str, function: Callable[[], T]) -> T:
    """Call a function inside a namespace; sockets that it returns stay there."""

    def entered() -> T:
        enter(name)
        return function()

    return in_thread(entered)


def prepare() -> None:
    """Make ``/run/netns`` the shared mount that `ip netns` makes of it, unless it is one."""
    if is_mounted(RUN_NETNS):
        return
    RUN_NETNS.mkdir(mode=0o755, exist_ok=True)
    mount(str(RUN_NETNS), str(RUN_NETNS), None, _MS_BIND | _MS_REC)
    mount("", str(RUN_NETNS), None, _MS_SHARED | _MS_REC)


def create(name: str, announce: Callable[[int], None], settings: dict[str, str]) -> None:
    """Make a named namespace; ``announce`` is told its inode before the name exists.

    Settings are sysctls of the new namespace, written before any device appears in it.
    """
    path = path_of(name)
    if path.exists():
        raise Clash("network namespace", name)

    def build() -> None:
        _check(_libc.unshare(_CLONE_NEWNET), "unshare")
        for key, value in settings.items():
            Path("/proc/sys", key).write_text(value)
        announce(os.stat("/proc/thread-self/ns/net").st_ino)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
        except FileExistsError:
            raise Clash("network namespace", name) from None
        mount("/proc/thread-self/ns/net", str(path), None, _MS_BIND)

    in_thread(build)


def is_ours(name: str, inode: int) -> bool:
    """Whether the name stands for the namespace that we announced, or for its empty shell.

    The shell is the plain file on which the namespace was to be mounted when its maker died.
    """
    try:
        found = path_of(name).stat()
    except FileNotFoundError:
        return False
    on_nsfs = found.st_dev == os.stat("/proc/self/ns/net").st_dev
    return found.st_ino == inode if on_nsfs else found.st_size == 0


def remove(name: str) -> None:
    """Remove a namespace that ``is_ours``."""
    path = path_of(name)
    if path.stat().st_dev == os.stat("/proc/self/ns/net").st_dev:
        unmount(str(path))
    path.unlink()
