# SPDX-License-Identifier: Apache-2.0
"""Everything that one instance has attached to its cgroup and pinned, kept so.

Joins ``dataplane.sockethooks`` and ``dataplane.pins`` with the lock of the pins. Devices are kept
by ``packets``; only their pins are looked after here. Owned by ``instance``, called in threads.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.dataplane.lock import PinLock
from kubeproxy_bpf.dataplane.owned import Owned
from kubeproxy_bpf.dataplane.pinning import links_in
from kubeproxy_bpf.dataplane.pins import Pinnable, Pins
from kubeproxy_bpf.dataplane.sockethooks import SocketHooks
from kubeproxy_bpf.errors import WriterBusy
from kubeproxy_bpf.packets import PacketPath


class PutBack(NamedTuple):
    """What one look had to attach or pin anew."""

    hooks: int = 0
    pins: int = 0


class Upkeep:
    """Of one instance."""

    def __init__(
        self,
        sockets: Datapath,
        packets: Callable[[], PacketPath | None],
        cgroup: Path,
        pins: Path | None,
        owned: Owned | None,
        *,
        lock: PinLock,
        may_mount: bool,
    ) -> None:
        """``pins``: their directory, None if nothing is pinned."""
        self._sockets = sockets
        self._packets = packets
        self._directory = pins
        self._lock = lock
        self._hooks = SocketHooks(sockets.programs, cgroup, links_in(pins) if pins else None, owned)
        self._pins = Pins(pins, self._pinned, lock, may_mount=may_mount) if pins else None
        path = packets()
        if pins and path is not None:
            path.pin_while(lock.is_current)

    @property
    def pins_missing(self) -> int:
        """Pins that are gone and could not be made again."""
        return self._pins.missing if self._pins is not None else 0

    def attach(self) -> None:
        """Attach the socket programs, in place of those of an earlier process.

        Raises:
            WriterBusy: the directory of pins was made anew, and is another's.
        """
        if self._directory is not None and not self._lock.renew():
            raise WriterBusy(str(self._directory))
        self._hooks.attach()

    def put_back(self) -> PutBack:
        """Attach and pin again what somebody removed.

        Raises:
            OSError, DataplaneError: it could not be looked at.
        """
        try:
            hooks = len(self._hooks.put_back())
        finally:  # pins matter also where the cgroup is gone
            pins = self._put_pins_back()
        return PutBack(hooks, pins)

    def _put_pins_back(self) -> int:
        if self._pins is None:
            return 0
        packets = self._packets()
        # Devices are followed in another thread, which closes links that it replaces.
        with packets.steady if packets is not None else nullcontext():
            return self._pins.put_back()

    def close(self) -> None:
        """Let go; what is pinned stays."""
        self._hooks.close()

    def _pinned(self) -> Iterator[tuple[Path, Pinnable]]:
        yield from self._hooks.pins()
        yield from _maps_of(self._sockets)
        packets = self._packets()
        if packets is not None:
            yield from _maps_of(packets.datapath, besides=self._sockets)
            yield from packets.pins()


def _maps_of(
    datapath: Datapath, besides: Datapath | None = None
) -> Iterator[tuple[Path, Pinnable]]:
    """Maps of a datapath, without those that it has from another."""
    if datapath.maps_dir is None:
        return
    given = besides.maps if besides is not None else {}
    for name, each in datapath.maps.items():
        if name not in given:
            yield datapath.maps_dir / name, each
