# SPDX-License-Identifier: Apache-2.0
"""Programs at devices by links: tcx, first in the chain, and XDP; pinned, and adopted by a restart.

A pinned link lives without this process, and ends with its device. A restart swaps the program
inside it, so that there is no moment without one. The kernel looks devices up in the network
namespace of the calling thread. Called by ``devices``; ``clsact`` does the same for kernels without
tcx.
"""

from __future__ import annotations

import errno
from pathlib import Path

import structlog

from kubeproxy_bpf.dataplane.places import NO_LONGER_FIRST, Hold, Hook, Place
from kubeproxy_bpf.libbpf import (
    AttachFlag,
    AttachType,
    LibbpfError,
    Link,
    ObjectProgram,
    device_chain,
    pinned_id,
)

_log = structlog.get_logger(__name__)

TCX = {Hook.INGRESS: AttachType.TCX_INGRESS, Hook.EGRESS: AttachType.TCX_EGRESS}
_LOOPBACK_INDEX = 1

XDP_GENERIC = 1 << 1
XDP_NATIVE = 1 << 2


def has_tcx() -> bool:
    """Whether the kernel knows tcx (Linux 6.6): it answers who is attached to loopback."""
    try:
        device_chain(_LOOPBACK_INDEX, AttachType.TCX_INGRESS)
    except LibbpfError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


class TcxHold(Hold):
    """A tcx link that stands before all others at its hook."""

    def __init__(self, place: Place, link: Link, pin: Path | None) -> None:
        self._place = place
        self._link = link
        self._pin = pin
        self._id = link.info().id

    @classmethod
    def attach(
        cls, place: Place, program: ObjectProgram, pin: Path | None, ours: bool = True
    ) -> TcxHold:
        """Attach a program, or put it into the link that an earlier process pinned.

        Where what stands at the pin is not ``ours``, it stays.
        """
        old = _open(pin) if ours else None
        if old is not None:
            held = cls(place, old, pin)
            if held.fault() is None:
                old.update(program)
                return held
        # A link cannot move in the chain: the new one works before the old one ends.
        link = Link.create(
            program.fd, place.ifindex, TCX[place.hook], AttachFlag.BEFORE, relative_fd=0
        )
        if ours:  # else it is put back later, once the place is ours
            _keep(link, pin)
        if old is not None:
            _end(old)
        return cls(place, link, pin)

    def to_front(self, program: ObjectProgram, copy: ObjectProgram) -> None:
        """Move before all others; the copy does the work until the old link has ended."""
        link = Link.create(
            copy.fd, self._place.ifindex, TCX[self._place.hook], AttachFlag.BEFORE, relative_fd=0
        )
        if id_at(self._pin) == self._id:
            _keep(link, self._pin)
        old, self._link, self._id = self._link, link, link.info().id
        _end(old)
        link.update(program)

    def fault(self) -> str | None:
        chain = device_chain(self._place.ifindex, TCX[self._place.hook])
        links = [entry.link_id for entry in chain]
        if self._id not in links:
            return "detached"
        return None if links[0] == self._id else NO_LONGER_FIRST

    def detach(self) -> None:
        _end(self._link)
        _unpin(self._pin, self._id)

    def close(self) -> None:
        self._link.close()

    def pinned(self) -> tuple[Path, Link] | None:
        return (self._pin, self._link) if self._pin is not None else None


class XdpHold(Hold):
    """An XDP link; there is one program per device, so nobody else's can stand beside it."""

    def __init__(self, place: Place, link: Link, pin: Path | None) -> None:
        self._place = place
        self._link = link
        self._pin = pin
        self._id = link.info().id

    @classmethod
    def attach(
        cls, place: Place, program: ObjectProgram, pin: Path | None, mode: int, ours: bool = True
    ) -> XdpHold:
        """Attach in this mode (XDP_NATIVE or XDP_GENERIC), or swap the program of what is pinned.

        The pin names the mode: what is found there has it. Where it is not ``ours``, it stays.
        """
        old = _open(pin) if ours else None
        if old is not None:
            held = cls(place, old, pin)
            if held.fault() is None:
                old.update(program)
                return held
            _end(old)
        link = Link.create(program.fd, place.ifindex, AttachType.XDP, mode)
        if ours:
            _keep(link, pin)
        return cls(place, link, pin)

    def fault(self) -> str | None:
        return None if self._link.info().ifindex == self._place.ifindex else "detached"

    def detach(self) -> None:
        _end(self._link)
        _unpin(self._pin, self._id)

    def close(self) -> None:
        self._link.close()

    def pinned(self) -> tuple[Path, Link] | None:
        return (self._pin, self._link) if self._pin is not None else None


def end_pinned(pin: Path) -> None:
    """Detach what is pinned at a path, whatever device it is or was attached to."""
    link = _open(pin)
    if link is not None:
        _end(link)
    pin.unlink(missing_ok=True)


def id_at(pin: Path | None) -> int:
    """The id of the link that is pinned at a path; 0 if none is."""
    return pinned_id(pin) if pin is not None and pin.exists() else 0


def _open(pin: Path | None) -> Link | None:
    return Link.open_pinned(pin) if pin is not None and pin.exists() else None


def _keep(link: Link, pin: Path | None) -> None:
    """Pin a link in place of another.

    Where that cannot be, since somebody removed the file system, the program serves as long as this
    process holds it, which is better than none; pins are put back later.
    """
    if pin is None:
        return
    try:
        pin.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = pin.with_name(f"new-{pin.name}")
        fresh.unlink(missing_ok=True)  # left by a crash at this point
        link.pin(fresh)
        fresh.rename(pin)
    except OSError as error:
        _log.warning("link_not_pinned", link=str(pin), error=str(error))


def _end(link: Link) -> None:
    try:
        link.detach()
    except LibbpfError as error:
        if error.errno not in (errno.ENOLINK, errno.ENODEV):  # its device went first
            raise
    finally:
        link.close()


def _unpin(pin: Path | None, link_id: int) -> None:
    """Remove the pin of this link, and no other that may have taken its place."""
    if pin is not None and id_at(pin) == link_id:
        pin.unlink(missing_ok=True)
