# SPDX-License-Identifier: Apache-2.0
"""Every network namespace of the machine, and running something in one.

Namespaces are found through the processes in them and through their names; one with neither cannot
be entered. Called by ``terminator``.
"""

from __future__ import annotations

import ctypes
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Iterable, Iterator, TypeVar

import structlog

from kubeproxy_bpf.errors import DataplaneError

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_CLONE_NEWNET = 0x40000000
_NAMED = Path("/run/netns")
_OWN = Path("/proc/thread-self/ns/net")


def all_namespaces(proc: Path = Path("/proc"), named: Path = _NAMED) -> Iterator[Path]:
    """Yield the paths of all network namespaces that can be seen: as many as show each."""
    for entry in os.scandir(proc):
        if entry.name.isdecimal():
            yield proc / entry.name / "ns" / "net"
    if named.is_dir():
        yield from named.iterdir()


def run_in_each(paths: Iterable[Path], function: Callable[[], T]) -> tuple[list[T], int]:
    """Run a function once in each namespace; return the results, and in how many it failed.

    A failure (OSError, DataplaneError), be it to enter, does not concern the other namespaces. A
    thread of its own does it all, since entering concerns the calling thread alone.

    Raises:
        OSError: there are no more threads, or the paths cannot be found.
    """
    with ThreadPoolExecutor(1, "netns") as executor:
        try:
            work = executor.submit(_run_in_each, paths, function)
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, str(error)) from error
        return work.result()


def _run_in_each(paths: Iterable[Path], function: Callable[[], T]) -> tuple[list[T], int]:
    results: list[T] = []
    failures: list[str] = []
    inside = os.stat(_OWN).st_ino
    for fd in _distinct(paths):
        try:
            # To enter one takes CAP_SYS_ADMIN, even where the thread is already.
            if os.fstat(fd).st_ino != inside:
                _enter(fd)
                inside = os.fstat(fd).st_ino
            results.append(function())
        except (OSError, DataplaneError) as error:
            failures.append(str(error))
    if failures:
        _log.debug("netns_unreachable", count=len(failures), error=failures[0])
    return results, len(failures)


def _distinct(paths: Iterable[Path]) -> Iterator[int]:
    """Open each namespace once; a descriptor is good until the next is asked for.

    It is opened as soon as it is found: the process that shows it may end at any moment, and
    another path to the same namespace, if there is one, then comes later.
    """
    seen: set[int] = set()
    for path in paths:
        try:
            if path.stat().st_ino in seen:
                continue  # nearly all: many processes share a namespace
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # the process ended meanwhile
        try:
            seen.add(os.fstat(fd).st_ino)
            yield fd
        finally:
            os.close(fd)


def _enter(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "setns")
