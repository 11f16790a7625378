# SPDX-License-Identifier: Apache-2.0
"""What the instance decides without a kernel: when sockets are looked at, which pins are ours."""

import asyncio
import errno
from pathlib import Path

import pytest
import structlog

from kubeproxy_bpf import instance as module
from kubeproxy_bpf.config.load import load
from kubeproxy_bpf.dataplane.owned import Owner
from kubeproxy_bpf.dataplane.pinning import drop_maps
from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.instance import Instance
from kubeproxy_bpf.libbpf import LibbpfError


class Looks(Instance):
    """Counts how often sockets are looked at."""

    def __init__(self, pin_path):
        super().__init__(load([f"--bpf-pin-path={pin_path}", "--hostname-override=n1"]))
        self.count = 0
        self.looked = asyncio.Event()

    async def _terminate(self, lost):
        self.count += 1
        self.looked.set()

    async def until(self, count):
        async with asyncio.timeout(10):
            while self.count < count:
                self.looked.clear()
                await self.looked.wait()


@pytest.fixture
async def looks(tmp_path):
    looks = Looks(tmp_path)
    task = asyncio.create_task(looks.run_terminator())
    yield looks
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_sockets_are_looked_at_twice(looks, monkeypatch):
    """A socket that was connecting during the first look is found by the second."""
    monkeypatch.setattr(module, "_SECOND_LOOK_S", 0.01)
    looks.abort_lost_sockets()
    await looks.until(2)
    await asyncio.sleep(0.05)

    assert 2 == looks.count


async def test_a_request_does_not_wait_for_the_second_look(looks, monkeypatch):
    """Backends that leave one after the other are each acted on at once."""
    monkeypatch.setattr(module, "_SECOND_LOOK_S", 3600)
    for count in (1, 2, 3):
        looks.abort_lost_sockets()
        await looks.until(count)


def test_only_our_own_old_maps_are_dropped(tmp_path):
    """The pin path may be shared: other names stay, and so do other files in ours."""
    for name in ("links", "tc", "0123456789ab", "ba9876543210", "aaaaaaaaaaaa"):
        (tmp_path / name).mkdir()
    (tmp_path / "0123456789ab/kpb_vips").touch()
    (tmp_path / "aaaaaaaaaaaa/foreign").touch()
    (tmp_path / "tc/kpb_vips").touch()

    drop_maps(tmp_path, [tmp_path / "ba9876543210"])

    left = {str(path.relative_to(tmp_path)) for path in Path(tmp_path).rglob("*")}
    assert {"links", "tc", "tc/kpb_vips", "ba9876543210"} < left
    assert {"aaaaaaaaaaaa", "aaaaaaaaaaaa/foreign"} < left
    assert "0123456789ab" not in left


@pytest.fixture
def blind(monkeypatch):
    """A process that may not walk over the kernel's programs."""

    def refuse(_owned):
        raise LibbpfError(errno.EPERM, "bpf_prog_get_next_id")

    monkeypatch.setattr(module.Owned, "programs", refuse)


def test_without_pins_an_instance_must_see_its_programs(looks, blind):
    """What it needs is said in a sentence: otherwise everything would be attached twice."""
    with pytest.raises(UnsupportedKernel, match="CAP_SYS_ADMIN"):
        looks._recognition(Owner(1, 1))


def test_with_pins_an_instance_does_without(looks, blind, tmp_path):
    """It takes over what is pinned, as its capabilities allow."""
    looks._pins = tmp_path
    with structlog.testing.capture_logs() as logged:
        assert looks._recognition(Owner(1, 1)) is None
    assert ["running_programs_unknown"] == [each["event"] for each in logged]
