# SPDX-License-Identifier: Apache-2.0
"""Keeps the packet programs attached to devices: what is wanted, no more, and before all others.

``sync`` is given every place that shall have a program. It attaches what is missing, puts back what
somebody removed or stood before (the latter with patience: ``contest``), and ends what is not
wanted any more; programs and qdiscs of others are never touched. One device that refuses does not
concern the others, and XDP is never a reason to fail. Links are pinned as
``<links_dir>/dev-<ifindex>-<hook>``; without a directory the programs are attached without links,
if it is known which are ours (``owned``). What an earlier process attached in the other way ends
when the new program works. Which device is wanted is decided by ``node.attachment``; called by
``packets``, in a thread.
"""

from __future__ import annotations

import errno
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from socket import if_nameindex
from typing import Callable, Collection, Mapping, NamedTuple

import structlog

from kubeproxy_bpf.dataplane.attach import DEVICE_PIN
from kubeproxy_bpf.dataplane.attachments import at_device, at_tcx, at_xdp
from kubeproxy_bpf.dataplane.clsact import ClsactFilters, ClsactHold
from kubeproxy_bpf.dataplane.contest import Clock, FirstPlaces
from kubeproxy_bpf.dataplane.devicelink import (
    XDP_GENERIC,
    XDP_NATIVE,
    TcxHold,
    XdpHold,
    end_pinned,
    has_tcx,
    id_at,
)
from kubeproxy_bpf.dataplane.owned import Owned
from kubeproxy_bpf.dataplane.places import NO_LONGER_FIRST, XDP_PROGRAMS, Hold, Hook, Place
from kubeproxy_bpf.dataplane.spare import LoadCopy, Spares
from kubeproxy_bpf.dataplane.unlinked import UnlinkedTcxHold, UnlinkedXdpHold
from kubeproxy_bpf.libbpf import Link, ObjectProgram

_log = structlog.get_logger(__name__)

_GONE = (errno.ENODEV, errno.ENXIO)
_PATIENCE_S = 1.0
"""So long programs are attached before it is asked whether that is still what is wanted."""
_XDP_MODES = {"native": XDP_NATIVE, "generic": XDP_GENERIC}
_NOT_ATTACHED = "none"


class Wish(NamedTuple):
    """What shall be attached at a place."""

    ethernet: bool = True
    """Frames begin with an Ethernet header; else with that of IP."""
    xdp_mode: str = "native"
    """At the hook XDP: native or generic."""


class DeviceHooks:
    """All attachments of one instance to devices."""

    def __init__(
        self,
        programs: Mapping[str, ObjectProgram],
        links_dir: Path | None,
        *,
        tcx: bool | None = None,
        owned: Owned | None = None,
        load_copy: LoadCopy | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """``tcx`` False makes use of clsact; None asks the kernel.

        ``owned`` knows what earlier processes attached; without it, it is not looked for, and links
        that are not pinned end with this process. Without ``load_copy`` there is a moment without a
        program when it moves to the front.
        """
        self._programs = dict(programs)
        self._links_dir = links_dir
        self._owned = owned
        self._filters = None if tcx or (tcx is None and has_tcx()) else ClsactFilters()
        self._holds: dict[Place, Hold] = {}
        self._wishes: dict[Place, Wish] = {}
        self._clock = clock
        self._first_places = FirstPlaces(clock)
        self._spares = Spares(load_copy)
        self._began = False
        self.may_pin: Callable[[], bool] = lambda: True
        """Whether the directory of pins is ours: links in another's are not ours to take or end."""
        self.refused: dict[Place, str] = {}
        """Places that could not be served, and why."""
        self.reattached: Counter[Place] = Counter()
        """How often a program was put back."""

    def add(self, programs: Mapping[str, ObjectProgram]) -> None:
        """Take more programs into use."""
        self._programs.update(programs)

    @property
    def changes_are_told(self) -> bool:
        """Whether netlink tells when a program of ours is removed or overtaken."""
        return self._filters is not None

    @property
    def attached(self) -> list[Place]:
        return list(self._holds)

    def pins(self) -> list[tuple[Path, Link]]:
        """Every link that is pinned, and where."""
        holds = list(self._holds.values())
        return [pinned for hold in holds if (pinned := hold.pinned()) is not None]

    def lacks(self, devices: Collection[str]) -> bool:
        """Whether something is to be put back at one of these devices; filters are not asked for.

        Cheaper than ``sync``, and does nothing about it.
        """
        return any(
            self._is_due(place, hold)
            for place, hold in list(self._holds.items())
            if place.device in devices and not isinstance(hold, ClsactHold)
        )

    def _is_due(self, place: Place, hold: Hold) -> bool:
        try:
            fault = hold.fault()
        except OSError:  # its device is gone, of which netlink tells
            return False
        if fault == NO_LONGER_FIRST:
            return not self._first_places.bears(place)
        return fault is not None

    def xdp_modes(self) -> dict[str, str]:
        """The mode of each device where XDP is wanted: native, generic or none."""
        return {
            place.device: wish.xdp_mode if place in self._holds else _NOT_ATTACHED
            for place, wish in self._wishes.items()
            if place.hook == Hook.XDP
        }

    def sync(
        self, wanted: Mapping[Place, Wish], outdated: Callable[[], bool] = lambda: False
    ) -> None:
        """Make everything as it is wanted; what is refused is logged and tried again.

        Stops after a while if what is wanted is ``outdated``, and is to be called again then.
        """
        with self._filters.session() if self._filters else nullcontext():
            try:
                self._sync(wanted, outdated)
            finally:
                self._spares.close()

    def close(self) -> None:
        """Let go of everything; what is pinned, and filters, go on."""
        for hold in self._holds.values():
            hold.close()
        self._holds.clear()

    def _sync(self, wanted: Mapping[Place, Wish], outdated: Callable[[], bool]) -> None:
        for place in self._holds.keys() - wanted.keys():
            self._forget(place)
            self.reattached.pop(place, None)
        self.refused = {p: why for p, why in self.refused.items() if wanted.get(p) is not None}
        self._first_places.keep(wanted)
        for place, wish in wanted.items():
            if place in self._holds and self._wishes.get(place) != wish:
                self._forget(place)
        gone = {place for place in wanted if not self._check(place)}
        # What takes the place of an earlier process' programs is whole before anything else goes.
        hurry = outdated if self._began else lambda: False
        self._attach_missing(
            {place: wish for place, wish in wanted.items() if place not in gone}, hurry
        )
        self._wishes = dict(wanted)
        if not self._began:
            self._began = True
            self._end_leftovers(wanted)

    def _attach_missing(self, wanted: Mapping[Place, Wish], outdated: Callable[[], bool]) -> None:
        """The kernel takes some 10 ms for each: whom a device that came back waits for must not be
        a thousand pods that came before it."""
        enough = self._clock() + _PATIENCE_S
        for place, wish in wanted.items():
            if place not in self._holds and self._worth_trying(place, wish):
                self._attach(place, wish)
                if self._clock() > enough and outdated():
                    return

    def _worth_trying(self, place: Place, wish: Wish) -> bool:
        """A device that refused XDP is not asked again: some drivers restart for an attempt."""
        known = place in self.refused and self._wishes.get(place) == wish
        return not (known and place.hook == Hook.XDP)

    def _check(self, place: Place) -> bool:
        """Let go of a place that has lost its program, or its rank and shall have it again; tell
        whether there is such a place at all, as far as is known."""
        hold = self._holds.get(place)
        if hold is None:
            return True
        try:
            fault = hold.fault()
        except OSError as error:
            if error.errno not in _GONE:
                _log.warning("attachment_not_checked", place=str(place), error=str(error))
                return True
            self._forget(place)
            return False
        if fault == NO_LONGER_FIRST:
            overdue = self._first_places.take_back(place)
        else:
            self._first_places.held(place)
            overdue = fault is not None
        if overdue:
            self.reattached[place] += 1
            _log.warning("program_put_back", place=str(place), fault=fault)
            if fault != NO_LONGER_FIRST or not self._moved(place, hold):
                self._forget(place)
        return True

    def _moved(self, place: Place, hold: Hold) -> bool:
        """Whether a program could move to the front without a gap."""
        if not isinstance(hold, (TcxHold, UnlinkedTcxHold)):
            return False
        name = _program_name(place, self._wishes[place])
        copy = self._spares.get(name)
        if copy is None:
            return False
        try:
            hold.to_front(self._programs[name], copy)
        except OSError as error:
            _log.warning("program_not_moved", place=str(place), error=str(error))
            return False
        return True

    def _attach(self, place: Place, wish: Wish) -> None:
        try:
            self._holds[place] = self._made(place, wish)
        except OSError as error:
            if self.refused.get(place) != str(error):
                tell = _log.info if place.hook == Hook.XDP else _log.warning
                if error.errno in _GONE:  # the next look will not find it
                    tell = _log.debug
                tell("device_refused_program", place=str(place), error=str(error))
            self.refused[place] = str(error)
        else:
            self.refused.pop(place, None)
            _log.debug("program_attached", place=str(place))

    def _made(self, place: Place, wish: Wish) -> Hold:
        if place.hook == Hook.XDP:
            return self._made_xdp(place, wish)
        name = _program_name(place, wish)
        program = self._programs.get(name)
        if program is None:
            raise OSError(errno.EOPNOTSUPP, f"the kernel refused {name}")
        if self._filters is not None:
            return self._filters.attach(place, program)
        hold = self._made_tcx(place, wish, program)
        for other in at_tcx(place.ifindex, place.hook, self._owned) if self._owned else ():
            if other.program_id != program.info().id:
                other.end()
        return hold

    def _made_tcx(self, place: Place, wish: Wish, program: ObjectProgram) -> Hold:
        if self._owned is not None and self._links_dir is None:
            return UnlinkedTcxHold.attach(place, program, self._owned)
        return TcxHold.attach(place, program, self._pin(place, wish), self.may_pin())

    def _made_xdp(self, place: Place, wish: Wish) -> Hold:
        """Frames in fragments first; drivers that have none of it get the program without."""
        for mode in _XDP_MODES.keys() - {wish.xdp_mode}:
            # A device runs in one mode, and an earlier process may have been told another.
            pin = self._pin(place, wish._replace(xdp_mode=mode))
            if pin is not None and self.may_pin():
                end_pinned(pin)
        refusal = OSError(errno.EOPNOTSUPP, "the kernel refused the XDP program")
        for name in XDP_PROGRAMS:
            program = self._programs.get(name)
            if program is None:
                continue
            try:
                return self._hold_xdp(place, wish, program)
            except OSError as error:
                refusal = error
        raise refusal

    def _hold_xdp(self, place: Place, wish: Wish, program: ObjectProgram) -> Hold:
        mode, pin = _XDP_MODES[wish.xdp_mode], self._pin(place, wish)
        if self._owned is not None and pin is None:
            return UnlinkedXdpHold.attach(place, program, self._owned, mode)
        for old in at_xdp(place.ifindex, self._owned) if self._owned else ():
            if not old.link_id or old.link_id != id_at(pin):
                old.end()
        return XdpHold.attach(place, program, pin, mode, self.may_pin())

    def _pin(self, place: Place, wish: Wish) -> Path | None:
        if self._links_dir is None or (self._filters and place.hook != Hook.XDP):
            return None
        mode = f"-{wish.xdp_mode}" if place.hook == Hook.XDP else ""
        return self._links_dir / f"{DEVICE_PIN}{place.ifindex}-{place.hook.value}{mode}"

    def _forget(self, place: Place) -> None:
        hold = self._holds.pop(place)
        try:
            hold.detach()
        except OSError as error:
            _log.warning("program_not_detached", place=str(place), error=str(error))

    def _end_leftovers(self, wanted: Mapping[Place, Wish]) -> None:
        """End what an earlier process attached where nobody wants it any more.

        A wanted place keeps what it has, also where the kernel refuses what should come there.
        """
        if self._links_dir is not None and self.may_pin():
            end_pins(self._links_dir, {self._pin(p, wish) for p, wish in wanted.items()})
        if self._filters is not None:
            count = self._filters.remove_others(wanted)
            if count:
                _log.info("old_filters_removed", count=count)
        if self._owned is not None:
            _end_elsewhere(self._owned, wanted, tcx=self._filters is None)


def _program_name(place: Place, wish: Wish) -> str:
    return f"kpb_tc_{place.hook.value}" + ("" if wish.ethernet else "_l3")


def _end_elsewhere(owned: Owned, wanted: Collection[Place], *, tcx: bool) -> None:
    """End what is attached where it is not wanted; a wanted place keeps what it has."""
    places = {(place.ifindex, place.hook) for place in wanted}
    hooks = tuple(Hook) if tcx else (Hook.XDP,)
    for ifindex, _ in if_nameindex():
        unwanted = (hook for hook in hooks if (ifindex, hook) not in places)
        for each in at_device(ifindex, owned, unwanted):
            try:
                each.end()
            except OSError as error:
                _log.warning("old_program_kept", attachment=str(each), error=str(error))
            else:
                _log.info("old_program_detached", attachment=str(each))


def end_pins(links_dir: Path, kept: Collection[Path | None] = ()) -> None:
    """Detach what is pinned for devices, but for these pins."""
    for name in (f"{DEVICE_PIN}*", f"new-{DEVICE_PIN}*"):
        for path in sorted(links_dir.glob(name)):
            if path in kept:
                continue
            try:
                end_pinned(path)
            except OSError as error:
                _log.warning("old_link_kept", link=str(path), error=str(error))
            else:
                _log.info("old_link_detached", link=str(path))
