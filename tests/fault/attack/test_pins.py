# SPDX-License-Identifier: Apache-2.0
"""The directory of pins is root's alone; the writer's name may be anybody's, and is named then."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest

from kubeproxy_bpf.dataplane.lock import WriterLock
from kubeproxy_bpf.dataplane.pinning import PinsUnsafe, keep_private, pin_directory
from kubeproxy_bpf.errors import WriterBusy
from tests.fault.load.stage import Stage

pytestmark = pytest.mark.root

NOBODY = 65534
_HOLD = """
import os, socket, sys
os.setuid(int(sys.argv[1]))
held = socket.socket(socket.AF_UNIX)
held.bind(b"\\0" + sys.argv[2].encode())
held.listen()
print("held", flush=True)
while True:
    held.accept()[0].close()
"""


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A BPF file system as the kernel mounts it: everybody may make directories in it."""
    subprocess.run(["mount", "-t", "bpf", "kpbt-attack", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_pins_are_roots_alone(stage: Stage) -> None:
    """Of a proxy at work: every directory of its pins is closed to others."""
    pins = stage.sandbox.pin_path("node1")
    for path in (pins, *(each for each in pins.rglob("*") if each.is_dir())):
        assert (mode_of(path), path.stat().st_uid) == (0o700, 0), path
    for path in pins.rglob("*"):
        assert path.is_dir() or mode_of(path) & 0o077 == 0, path


def test_an_open_directory_is_closed(bpffs: Path) -> None:
    """One of our own that was made with another mode."""
    pins = bpffs / "pins"
    pins.mkdir()
    pins.chmod(0o777)
    assert pin_directory("on", pins) == pins
    assert mode_of(pins) == 0o700


def test_what_is_somebody_elses_is_refused(bpffs: Path) -> None:
    """A directory, something in it, a link: a clear message, and all is as it was."""
    foreign, shared, link = bpffs / "foreign", bpffs / "shared", bpffs / "link"
    foreign.mkdir()
    os.chown(foreign, NOBODY, NOBODY)
    (shared / "links").mkdir(parents=True)
    os.chown(shared / "links", NOBODY, NOBODY)
    link.symlink_to(foreign)
    for path, reason in ((foreign, "user 65534"), (shared, "links in it"), (link, "a link")):
        with pytest.raises(PinsUnsafe) as caught:
            keep_private(path)
        assert str(path) in str(caught.value) and reason in str(caught.value)
        assert "--bpf-pin-path" in str(caught.value)
    assert foreign.stat().st_uid == NOBODY


async def test_who_holds_the_writers_name_is_named() -> None:
    """A user of the node can take it: the proxy waits, says whose it is, and gets it afterwards."""
    lock = WriterLock(f"kpbt-attack-{os.getpid()}")
    argv = [sys.executable, "-I", "-S", "-c", _HOLD, str(NOBODY), lock._name[1:]]
    holder = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    heard: list[WriterBusy] = []
    waiting = asyncio.create_task(lock.acquire(heard.append))
    try:
        while not heard:
            await asyncio.sleep(0.01)
        assert f"process {holder.pid} of user {NOBODY}" in str(heard[0])
        spent = os.times().user
        await asyncio.sleep(0.5)
        # It hangs up on whoever waits, which must not keep the waiting one busy.
        assert os.times().user - spent < 0.25 and not lock.held
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    await asyncio.wait_for(waiting, 10)
    assert lock.held and len(heard) == 1
    lock.release()
