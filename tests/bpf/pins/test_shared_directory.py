# SPDX-License-Identifier: Apache-2.0
"""Two proxies of two network namespaces that see one directory of pins: one of them pins there."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Iterator

import pytest
import structlog

from kubeproxy_bpf.dataplane.lock import PinLock
from kubeproxy_bpf.dataplane.pins import Pins
from kubeproxy_bpf.libbpf import BpfMap, MapType

pytestmark = pytest.mark.root


class Proxy:
    """What a proxy has pinned: a map, at a path that every proxy of this version has."""

    def __init__(self, directory: Path, undo: ExitStack) -> None:
        self.path = directory / "0123456789ab" / "kpb_vips"
        self.map = undo.enter_context(BpfMap.create(MapType.ARRAY, "kpb_vips", 4, 4, 1))
        self.lock = PinLock(directory)
        undo.callback(self.lock.release)
        self.pins = Pins(directory, lambda: [(self.path, self.map)], self.lock, may_mount=False)

    def has_its_pin(self) -> bool:
        with BpfMap.open_pinned(self.path) as pinned:
            return pinned.info().id == self.map.info().id


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "bpf", "bpf", tmp_path], check=True)
    try:
        yield tmp_path / "pins"
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


@pytest.fixture
def proxies(directory: Path) -> Iterator[tuple[Proxy, Proxy]]:
    """The first has pinned its map, the second waits for the directory."""
    with ExitStack() as undo:
        first, second = Proxy(directory, undo), Proxy(directory, undo)
        assert first.lock.try_acquire()
        assert first.pins.put_back() == 1
        assert not second.lock.try_acquire()
        yield first, second


def test_pins_of_a_proxy_that_took_the_directory_stay(
    proxies: tuple[Proxy, Proxy], directory: Path
) -> None:
    """Who lost it pins nothing, says so once, and counts its pins as missing."""
    first, second = proxies
    shutil.rmtree(directory)
    assert second.lock.try_acquire()
    assert second.pins.put_back() == 1

    with structlog.testing.capture_logs() as logged:
        assert [first.pins.put_back() for _ in range(3)] == [0, 0, 0]
    assert first.pins.missing == 1
    assert second.has_its_pin()
    (told,) = logged
    assert told["event"] == "pins_lost" and "another process" in told["error"]


def test_of_two_that_lost_their_pins_one_puts_them_back(
    proxies: tuple[Proxy, Proxy], directory: Path
) -> None:
    """Whoever looks first; the other would have overwritten it."""
    first, second = proxies
    shutil.rmtree(directory)
    assert [first.pins.put_back(), second.pins.put_back(), first.pins.put_back()] == [1, 0, 0]
    assert first.has_its_pin()


def test_whoever_outlives_the_other_pins_again(
    proxies: tuple[Proxy, Proxy], directory: Path
) -> None:
    """What the other left there is not taken for its own: an equal path holds another map."""
    first, second = proxies
    shutil.rmtree(directory)
    assert second.lock.try_acquire()
    second.pins.put_back()
    first.pins.put_back()
    second.lock.release()

    assert first.pins.put_back() == 1
    assert first.has_its_pin()
    assert first.pins.missing == 0
