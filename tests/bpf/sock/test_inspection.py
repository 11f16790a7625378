# SPDX-License-Identifier: Apache-2.0
"""What is known of hooks and maps: as the kernel has them, also after others changed them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Iterator

import pytest
import structlog

from kubeproxy_bpf.dataplane.attach import attach, close_all
from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.inspection import Inspection
from kubeproxy_bpf.libbpf import BpfMap, MapType
from kubeproxy_bpf.serve.metrics_datapath import MapReading

from .places import Places

pytestmark = pytest.mark.root


@pytest.fixture
def cgroup(places: Places) -> Iterator[Path]:
    path = places.cgroup.with_name(places.cgroup.name + "-inspected")
    path.mkdir()
    yield path
    path.rmdir()


def test_a_hook_that_somebody_detached_is_seen(datapath: Datapath, cgroup: Path) -> None:
    """The others go on; once it stands again, all are active."""
    inspection = Inspection(datapath.programs, cgroup, datapath.maps)
    links = attach(datapath.programs, cgroup)
    try:
        inspection.look_at_hooks()
        assert inspection.hooks.inactive == ()
        assert set(inspection.hooks.active) == set(datapath.programs)
        name = next(iter(links))
        links.pop(name).close()
        inspection.look_at_hooks()
        assert inspection.hooks.inactive == (name,)
        assert name not in inspection.hooks.active
        links |= attach({name: datapath.programs[name]}, cgroup)
        inspection.look_at_hooks()
        assert inspection.hooks.inactive == ()
    finally:
        close_all(links.values())


def test_the_proof_is_remembered(datapath: Datapath, cgroup: Path) -> None:
    """A later look at the hooks says nothing about it."""
    inspection = Inspection(datapath.programs, cgroup, datapath.maps)
    assert inspection.hooks.proved is None
    inspection.attached(True)
    inspection.look_at_hooks()
    assert inspection.hooks.proved is True


async def test_a_cgroup_that_cannot_be_opened_ends_nothing(
    datapath: Datapath, tmp_path: Path
) -> None:
    """It may be gone, or there may be no descriptor left: that is said, and looked at again."""
    inspection = Inspection(datapath.programs, tmp_path / "gone", {}, every_s=0.001)
    at_work = asyncio.Event()
    at_work.set()
    with structlog.testing.capture_logs() as logged:
        task = asyncio.create_task(inspection.run(at_work))
        try:
            async with asyncio.timeout(30):
                while len(logged) < 2 and not task.done():
                    await asyncio.sleep(0.001)
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert {"hooks_not_looked_at"} == {each["event"] for each in logged}


@pytest.mark.parametrize("count", [0, 1, 3000])
async def test_maps_are_counted(count: int) -> None:
    """Also where one batch does not hold all; nobody knows before the first walk."""
    with BpfMap.create(MapType.HASH, "counted", 8, 8, 8192) as counted:
        for number in range(count):
            counted.update(number.to_bytes(8, "little"), bytes(8))
        inspection = Inspection({}, Path("/"), {"kpb_tcp_origin": counted})
        assert inspection.maps == {"tcp_origin": MapReading(None, 8192)}
        at_work = asyncio.Event()
        at_work.set()
        task = asyncio.create_task(inspection.run(at_work))
        try:
            async with asyncio.timeout(30):
                while inspection.maps["tcp_origin"].used is None:
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert inspection.maps == {"tcp_origin": MapReading(count, 8192)}
