# SPDX-License-Identifier: Apache-2.0
"""Puts back pins of maps and links that somebody removed, with their file system if that went too.

A pin matters when this process ends: what it alone holds ends with it, and connections with that.
So a lost pin hurts nobody yet, and is made again from what is open here. A BPF file system is
mounted only where the first one would be (``pinning``); elsewhere it is told that there is none.
A directory that somebody made anew may be another proxy's by now, of another network namespace:
nothing is pinned without the lock on it. Owned by ``audit.upkeep``, called in threads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Iterable

import structlog

from kubeproxy_bpf.dataplane.lock import PinLock
from kubeproxy_bpf.dataplane.mounts import ensure_bpffs, has_bpffs
from kubeproxy_bpf.errors import DataplaneError
from kubeproxy_bpf.libbpf import BpfMap, LibbpfError, Link, object_id, pinned_id

_log = structlog.get_logger(__name__)


Pinnable = BpfMap | Link
Wanted = Iterable[tuple[Path, Pinnable]]


class Pins:
    """The pins of one instance."""

    def __init__(
        self, directory: Path, wanted: Callable[[], Wanted], lock: PinLock, *, may_mount: bool
    ) -> None:
        """``wanted`` names all that should be pinned; ``lock`` is that of the directory;
        ``may_mount``: a file system of our own outlives this process."""
        self._directory = directory
        self._lock = lock
        self._wanted = wanted
        self._may_mount = may_mount
        self._told = ""
        self.missing = 0
        """Pins that could not be made again."""

    def put_back(self) -> int:
        """Pin again what is not pinned any more; return how many that were."""
        lost = [(path, item) for path, item in self._wanted() if not _is_pinned(path, item)]
        self.missing = 0
        if not lost:
            self._told = ""
            return 0
        problem = self._file_system_problem() or self._pin(lost)
        if problem is None:
            _log.error("pins_put_back", count=len(lost), path=str(self._directory))
            return len(lost)
        self.missing = len(lost)
        if problem != self._told:
            self._told = problem
            _log.error(
                "pins_lost",
                count=len(lost),
                path=str(self._directory),
                error=problem,
                meaning="programs and maps end with this process",
            )
        return 0

    def _file_system_problem(self) -> str | None:
        if has_bpffs(self._directory):
            return None
        if not self._may_mount:
            return "no BPF file system is mounted there any more"
        try:
            ensure_bpffs(self._directory)
        except (DataplaneError, OSError) as error:
            return str(error)
        return None

    def _pin(self, lost: Wanted) -> str | None:
        try:
            if not self._lock.renew():
                return "the directory was made anew, and another process uses it"
            for path, item in lost:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                fresh = path.with_name(f"new-{path.name}")
                fresh.unlink(missing_ok=True)
                item.pin(fresh)
                fresh.rename(path)
        except OSError as error:
            return str(error)
        return None


def _is_pinned(path: Path, item: Pinnable) -> bool:
    """What is pinned there may be a link that somebody detached, or another proxy's."""
    try:
        return pinned_id(path) == object_id(item.fd)
    except LibbpfError:
        return False
