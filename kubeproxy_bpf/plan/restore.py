# SPDX-License-Identifier: Apache-2.0
"""Reads a dump of the maps back into what the planner works with. Called once, at start.

A service index is known by the frontends that lead to it. What is published behind it is taken over
only if it is sound: its record is its own, its extent lies within the slots and overlaps no other,
its slots name live backends. The rest is *suspect*: programs may still read it until every service
port is published anew, so it is neither taken over nor handed out before that. It never fails.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple, cast

from kubeproxy_bpf.model.types import FrontendSpec
from kubeproxy_bpf.plan.records import BackendFlags, FrontendKind, Record
from kubeproxy_bpf.plan.writes import Capacity, Dump

_LIVE = int(BackendFlags.LIVE)


class Programmed:
    """What is programmed for one service port."""

    __slots__ = ("index", "record_id", "record", "ids", "frontends", "renewed", "inherited")

    def __init__(self, index: int, frontends: tuple[FrontendSpec, ...] = ()) -> None:
        self.index = index
        self.record_id = 0
        self.record: Record | None = None
        """None: nothing that can be taken over is published."""
        self.ids: array[int] = array("I")
        self.renewed = False
        """Has a new owner, whose word is not written yet."""
        self.inherited = False
        """Has a new owner, or one known by frontends alone, whose ranges are not planned yet."""
        self.frontends = frontends
        """As wanted; a key may belong to someone else who had it first."""


class Freed:
    """Ids and runs that no program may find any more, and that some program may still hold."""

    __slots__ = ("indexes", "records", "extents", "backends")

    def __init__(self) -> None:
        self.indexes: list[int] = []
        self.records: list[int] = []
        self.extents: list[tuple[int, int]] = []
        self.backends: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.indexes or self.records or self.extents or self.backends)

    def absorb(self, other: Freed) -> None:
        """Take over what another one holds."""
        self.indexes += other.indexes
        self.records += other.records
        self.extents += other.extents
        self.backends += other.backends


class Recovered(NamedTuple):
    """The outcome: services by index, what is suspect, and which slots are neither."""

    services: dict[int, Programmed]
    suspect: Freed
    free_slots: list[tuple[int, int]]


def recover(dump: Dump, capacity: Capacity) -> Recovered:
    """Sort a dump into sound services, suspect remains and free slots."""
    reader = _Reader(dump, capacity)
    services = {
        index: reader.service(index, tuple(frontends))
        for index, frontends in sorted(_frontends_by_index(dump, capacity).items())
    }
    reader.suspend()
    return Recovered(services, reader.suspect, reader.free_slots())


def _frontends_by_index(dump: Dump, capacity: Capacity) -> dict[int, list[FrontendSpec]]:
    led: dict[int, list[FrontendSpec]] = {}
    for key, value in dump.frontends.items():
        if 0 < value.service < capacity.services:
            # An unknown kind stays a number: it equals no wanted kind, so the entry is replaced.
            spec = FrontendSpec(*key, cast(FrontendKind, value.kind), value.flags)
            led.setdefault(value.service, []).append(spec)
    return led


class _Reader:
    def __init__(self, dump: Dump, capacity: Capacity) -> None:
        self._dump = dump
        self._slots_max = min(capacity.slots, len(dump.slots))
        self._records_max = capacity.records
        self._used = bytearray(capacity.slots)
        self._used[:1] = b"\1"  # slot 0 means "none"
        self._records: set[int] = set()
        self._backends: set[int] = set()
        self._broken: list[tuple[int, Record]] = []
        self.suspect = Freed()

    def service(self, index: int, frontends: tuple[FrontendSpec, ...]) -> Programmed:
        """Take over one index, with what it publishes if that is sound."""
        state = Programmed(index, frontends)
        word = self._dump.services.get(index)
        record = self._dump.records.get(word.record) if word else None
        if word is None or record is None or not 0 < word.record < self._records_max:
            return state
        if word.record in self._records or not self._sound(record):
            self._broken.append((word.record, record))
            return state
        self._records.add(word.record)
        end = record.slots + record.members
        state.record_id, state.record = word.record, record
        state.ids = array("I", self._dump.slots[record.slots : end])
        self._backends.update(state.ids)
        self._used[record.slots : end] = b"\1" * record.members
        return state

    def suspend(self) -> None:
        """Set aside all that unsound services still show to programs."""
        for record_id, record in self._broken:
            if record_id not in self._records:
                self._records.add(record_id)
                self.suspect.records.append(record_id)
            end = min(record.slots + record.members, self._slots_max)
            for backend in set(self._dump.slots[record.slots : end]) - self._backends - {0}:
                self._backends.add(backend)
                self.suspect.backends.append(backend)
            for start, length in self._runs(record.slots, end):
                self._used[start : start + length] = b"\1" * length
                self.suspect.extents.append((start, length))

    def free_slots(self) -> list[tuple[int, int]]:
        """Runs that nothing shows."""
        return self._runs(0, len(self._used))

    def _runs(self, start: int, end: int) -> list[tuple[int, int]]:
        """Unused runs within a part of the slots."""
        runs = []
        while start < end and (first := self._used.find(0, start, end)) >= 0:
            stop = self._used.find(1, first, end)
            start = stop if stop >= 0 else end
            runs.append((first, start - first))
        return runs

    def _sound(self, record: Record) -> bool:
        end = record.slots + record.members
        if end > self._slots_max or record.cluster_count > record.members:
            return False
        if record.local_first + record.local_count > record.members:
            return False
        if record.members and self._used.find(1, record.slots, end) >= 0:
            return False
        backends = self._dump.backends
        for number in self._dump.slots[record.slots : end]:
            backend = backends.get(number)
            if backend is None or not backend.flags & _LIVE:
                return False
        return True
