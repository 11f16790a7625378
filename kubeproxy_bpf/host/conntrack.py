# SPDX-License-Identifier: Apache-2.0
"""Deletes stale UDP entries of the kernel's connection tracking after syncs that call for it.

In a thread, a piece of the table at a time, and never more than a fifth of the time: what comes in
meanwhile waits for the next run, which does it all at once. A refusal is tried again. Which entries
are stale is decided in ``stale``. ``app`` runs it; ``sync`` tells it what changes, and when that is
programmed.
"""

from __future__ import annotations

import asyncio
import errno
import time
from functools import partial
from pathlib import Path
from typing import Callable, NamedTuple

import structlog

from kubeproxy_bpf.host.ctnetlink import Conntrack
from kubeproxy_bpf.host.stale import UdpServices, Wanted
from kubeproxy_bpf.meters import ConntrackMeters
from kubeproxy_bpf.model.types import Changes, Family
from kubeproxy_bpf.threads import in_thread

_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
"""Absent where nothing can be tracked: asking would load the module."""
_MOST_PORTS = 8
"""Up to so many it is cheaper to ask for each port than to look at all UDP."""
_REST = 4.0
"""Times as long as it worked."""
_UNTRACKED = (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL)
"""What a kernel without ctnetlink says."""

_log = structlog.get_logger(__name__)


class Cleaned(NamedTuple):
    """One run over the entries of a family."""

    family: Family
    deleted: int
    took_s: float


def clean(family: Family, wanted: Wanted) -> Cleaned:
    """Delete the stale entries of a family in the network namespace of the calling thread; blocks.

    Raises:
        OSError: the kernel refuses, or gave up; some may be deleted.
    """
    begin = time.monotonic()
    deleted = 0
    ports: list[int | None] = list(wanted.ports)
    if ports and _COUNT.exists():
        with Conntrack() as conntrack:
            for port in ports if len(ports) <= _MOST_PORTS else [None]:
                for entries in conntrack.udp_entries(family, port):
                    names = [entry.name for entry in wanted.stale(entries)]
                    deleted += conntrack.delete(names)
    return Cleaned(family, deleted, time.monotonic() - begin)


class ConntrackCleanup:
    """Cleans whenever endpoints of UDP Services changed. All but ``run`` returns at once."""

    def __init__(
        self,
        *,
        retry_s: float = 30.0,
        meters: ConntrackMeters | None = None,
        clean: Callable[[Family, Wanted], Cleaned] = clean,
    ) -> None:
        self._services = UdpServices()
        self._retry_s = retry_s
        self._meters = meters or ConntrackMeters()
        self._clean = clean
        self._changed: set[Family] = set()
        self._due: set[Family] = set()
        self._woken = asyncio.Event()

    def note(self, changes: Changes) -> None:
        """These changes are about to be programmed."""
        self._changed |= self._services.note(changes)

    def synced(self) -> None:
        """All that was noted is programmed [J1]."""
        if self._changed:
            self._due |= self._changed
            self._changed = set()
            self._woken.set()

    async def run(self) -> None:
        """Clean for ever."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            begin = time.monotonic()
            for family in sorted(self._due):
                await self._clean_family(family)
            if self._due:
                asyncio.get_running_loop().call_later(self._retry_s, self._woken.set)
            await asyncio.sleep(_REST * (time.monotonic() - begin))

    async def _clean_family(self, family: Family) -> None:
        self._due.discard(family)
        name = f"IPv{family}"
        work = partial(self._clean, family, self._services.wanted(family))
        try:
            cleaned = await in_thread(work)
        except OSError as error:
            if error.errno in _UNTRACKED:
                _log.info("conntrack_unavailable", family=name, error=str(error))
                return
            _log.warning("conntrack_not_cleaned", family=name, error=str(error))
            self._due.add(family)
            return
        if cleaned.deleted:
            took_ms = round(cleaned.took_s * 1e3, 3)
            _log.info("conntrack_cleaned", family=name, entries=cleaned.deleted, took_ms=took_ms)
        self._meters.deleted.inc(name, by=cleaned.deleted)
        self._meters.duration.observe(cleaned.took_s, name)
