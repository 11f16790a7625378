# SPDX-License-Identifier: Apache-2.0
"""Hooks and pins are looked after in one thread, devices in another."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kubeproxy_bpf.audit.upkeep import PutBack, Upkeep
from kubeproxy_bpf.dataplane.lock import PinLock
from kubeproxy_bpf.errors import UnsupportedKernel, WriterBusy


class Stillness:
    """Pins that tell whether nobody could change an attachment while they were put back."""

    def __init__(self, steady: threading.Lock) -> None:
        self.steady = steady
        self.was_kept = False

    def put_back(self) -> int:
        self.was_kept = self.steady.locked()
        return 0


def upkeep(packets: Any, pins: Any) -> Upkeep:
    sockets: Any = SimpleNamespace(programs={})
    made = Upkeep(sockets, lambda: packets, Path("/"), None, None, lock=Any, may_mount=False)
    made._hooks = SimpleNamespace(put_back=lambda: [])  # type: ignore[assignment]
    made._pins = pins
    return made


def test_no_link_of_a_device_is_replaced_while_pins_are_put_back() -> None:
    """A link that is closed meanwhile cannot be pinned, and that it was tried ended the process."""
    steady = threading.Lock()
    pins = Stillness(steady)

    assert PutBack() == upkeep(SimpleNamespace(steady=steady), pins).put_back()
    assert pins.was_kept
    assert not steady.locked()


def test_without_a_packet_path_pins_are_put_back_all_the_same() -> None:
    """There is nobody to wait for."""
    pins = Stillness(threading.Lock())

    assert PutBack() == upkeep(None, pins).put_back()
    assert not pins.was_kept


def test_pins_are_put_back_also_where_the_cgroup_is_gone() -> None:
    """Maps and links of devices are pinned beside those of sockets."""

    def gone() -> list[str]:
        raise UnsupportedKernel("cgroup v2", "is gone")

    steady = threading.Lock()
    pins = Stillness(steady)
    kept = upkeep(SimpleNamespace(steady=steady), pins)
    kept._hooks = SimpleNamespace(put_back=gone)  # type: ignore[assignment]
    with pytest.raises(UnsupportedKernel):
        kept.put_back()
    assert pins.was_kept


def test_nothing_is_attached_to_pins_that_became_anothers(tmp_path: Path) -> None:
    """Lists may have taken long, and the directory was made anew meanwhile: links found in it are
    those of another proxy, not of an earlier process."""
    directory = tmp_path / "pins"
    lock, other = PinLock(directory), PinLock(directory)
    try:
        assert lock.try_acquire()
        sockets: Any = SimpleNamespace(programs={})
        made = Upkeep(sockets, lambda: None, Path("/"), directory, None, lock=lock, may_mount=False)
        attached: list[int] = []
        made._hooks = SimpleNamespace(attach=lambda: attached.append(1))  # type: ignore[assignment]
        directory.rmdir()
        assert other.try_acquire()
        with pytest.raises(WriterBusy):
            made.attach()
        assert not attached
        other.release()
        made.attach()
        assert attached
    finally:
        lock.release()
        other.release()
