# SPDX-License-Identifier: Apache-2.0
"""Every network namespace of the machine, and running something in one.

Namespaces are found through the processes in them and through their names; one with neither cannot
be entered. Called by ``terminator``.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Iterable, Iterator, TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_NAMED = Path("/run/netns")


def all_namespaces(proc: Path = Path("/proc"), named: Path = _NAMED) -> list[Path]:
    """Return one path for each distinct network namespace that can be seen."""
    found: dict[int, Path] = {}
    for path in _candidates(proc, named):
        try:
            found.setdefault(path.stat().st_ino, path)
        except OSError:
            continue  # the process ended meanwhile
    return list(found.values())


def run_in_each(paths: Iterable[Path], function: Callable[[], T]) -> tuple[list[T], int]:
    """Run a function in each namespace; return the results and how many could not be entered.

    A thread of its own does it, since entering concerns the calling thread alone.
    """
    with ThreadPoolExecutor(1, "netns") as executor:
        return executor.submit(_run_in_each, list(paths), function).result()


def _candidates(proc: Path, named: Path) -> Iterator[Path]:
    for entry in os.scandir(proc):
        if entry.name.isdecimal():
            yield proc / entry.name / "ns" / "net"
    if named.is_dir():
        yield from named.iterdir()


def _run_in_each(paths: list[Path], function: Callable[[], T]) -> tuple[list[T], int]:
    results: list[T] = []
    for path in paths:
        if _enter(path):
            results.append(function())
    return results, len(paths) - len(results)


def _enter(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.setns(fd, _CLONE_NEWNET) == 0)
    finally:
        os.close(fd)
