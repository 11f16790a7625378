# SPDX-License-Identifier: Apache-2.0
"""When stale entries are looked for: after a sync, per family, again after a refusal."""

import asyncio
import errno
import os
from contextlib import asynccontextmanager
from itertools import count
from types import SimpleNamespace

import pytest

from kubeproxy_bpf.host import conntrack as module
from kubeproxy_bpf.host.conntrack import Cleaned, ConntrackCleanup
from kubeproxy_bpf.meters import ConntrackMeters
from kubeproxy_bpf.model.types import Changes, Family
from tests.unit.host.test_stale import DNS, desired

SIX = DNS._replace(family=Family.IPV6)
FIRST = Changes({DNS: desired("10.1.0.1:53"), SIX: desired("[fd00::1]:53")}, {}, True)


class Runs:
    """Stands for the work in the kernel: what was asked for, and what comes of it."""

    def __init__(self):
        self.families = []
        self.wanted = []
        self.errors = []

    def __call__(self, family, wanted):
        self.families.append(family)
        self.wanted.append(wanted)
        if self.errors:
            code = self.errors.pop(0)
            raise OSError(code, os.strerror(code))
        return Cleaned(family, 3, 0.01)

    async def reach(self, count):
        async with asyncio.timeout(10):
            while len(self.families) < count:
                await asyncio.sleep(0.001)


@asynccontextmanager
async def running(cleanup):
    task = asyncio.create_task(cleanup.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_nothing_is_looked_at_before_the_changes_are_programmed():
    """A flow must not come back to an old endpoint [J1]."""
    runs = Runs()
    cleanup = ConntrackCleanup(clean=runs)
    async with running(cleanup):
        cleanup.note(FIRST)
        await asyncio.sleep(0.02)
        assert [] == runs.families

        cleanup.synced()
        await runs.reach(2)

    assert [Family.IPV4, Family.IPV6] == runs.families


async def test_only_the_family_that_changed_is_looked_at():
    """And not again when a sync changes nothing for UDP."""
    runs = Runs()
    cleanup = ConntrackCleanup(clean=runs)
    cleanup.note(FIRST)
    cleanup.synced()
    async with running(cleanup):
        await runs.reach(2)
        cleanup.note(Changes({SIX: desired("[fd00::2]:53")}, {}))
        cleanup.synced()
        await runs.reach(3)
        cleanup.synced()
        await asyncio.sleep(0.05)

    assert [Family.IPV4, Family.IPV6, Family.IPV6] == runs.families


async def test_refusal_is_tried_again_with_the_state_of_then():
    """It waits for the retry interval, and judges by what is wanted then."""
    runs = Runs()
    runs.errors = [errno.ENOBUFS]
    cleanup = ConntrackCleanup(clean=runs, retry_s=0.5)
    cleanup.note(Changes({DNS: desired("10.1.0.1:53")}, {}))
    cleanup.synced()
    async with running(cleanup):
        await runs.reach(1)
        cleanup.note(Changes({DNS: None}, {}))
        await runs.reach(2)
        await asyncio.sleep(0.05)

    assert [Family.IPV4, Family.IPV4] == runs.families
    assert [{53}, set()] == [wanted.ports for wanted in runs.wanted]


async def test_kernel_that_tracks_nothing_is_asked_once():
    """Without ctnetlink there is nothing to delete, also later."""
    runs = Runs()
    runs.errors = [errno.EPROTONOSUPPORT]
    cleanup = ConntrackCleanup(clean=runs, retry_s=0.01)
    cleanup.note(Changes({DNS: desired("10.1.0.1:53")}, {}))
    cleanup.synced()
    async with running(cleanup):
        await runs.reach(1)
        await asyncio.sleep(0.05)

    assert 1 == len(runs.families)


async def test_deleted_entries_and_time_are_measured_by_family():
    """Under the names of kube-proxy."""
    meters = ConntrackMeters()
    runs = Runs()
    cleanup = ConntrackCleanup(clean=runs, meters=meters)
    cleanup.note(FIRST)
    cleanup.synced()
    async with running(cleanup):
        async with asyncio.timeout(10):
            while len(meters.deleted.values) < 2:
                await asyncio.sleep(0.001)

    assert {("IPv4",): 3, ("IPv6",): 3} == meters.deleted.values
    series = meters.duration.family().series
    assert [("IPv4",), ("IPv6",)] == sorted(series)
    assert 1 == sum(series[("IPv4",)].counts)


async def test_it_rests_longer_than_it_works(monkeypatch):
    """What comes in meanwhile is done by the next run, once."""
    rested = []
    sleep = asyncio.sleep

    async def note(seconds):
        rested.append(seconds)
        await sleep(0)

    runs = Runs()
    cleanup = ConntrackCleanup(clean=runs)
    cleanup.note(FIRST)
    cleanup.synced()
    clock = count(7.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(module.asyncio, "sleep", note)
    async with running(cleanup):
        while not rested:
            await sleep(0.001)

    assert [4.0] == rested


@pytest.mark.parametrize("text", ["absent", "present"])
def test_nothing_is_asked_where_nothing_is_tracked_or_wanted(tmp_path, monkeypatch, text):
    """To ask would load the kernel's module."""
    entries = tmp_path / "entries"
    monkeypatch.setattr(module, "_COUNT", entries)
    monkeypatch.setattr(module, "Conntrack", None)
    services = module.UdpServices()
    if text == "absent":
        services.note(FIRST)
    else:
        entries.write_text("5\n")

    assert 0 == module.clean(Family.IPV4, services.wanted(Family.IPV4)).deleted
