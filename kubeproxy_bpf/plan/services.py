# SPDX-License-Identifier: Apache-2.0
"""Publishes service ports: backends, slots, records and words, and the quarantine of all four.

A publication is made of new ids only, so that no program sees it before the word is stored; what it
replaces rests under the token of the plan until ``release``. The planner decides which service port
has which index and what leads there; this module decides nothing about frontends.
"""

from __future__ import annotations

from array import array
from typing import Collection, Iterable, Sequence

from kubeproxy_bpf.model.types import BackendSpec, Desired, Protocol
from kubeproxy_bpf.plan.extents import Extents
from kubeproxy_bpf.plan.ids import BackendRow, BackendTable, IdPool, next_generation
from kubeproxy_bpf.plan.records import Backend, BackendFlags, Record, Service
from kubeproxy_bpf.plan.restore import Freed, Programmed, Recovered
from kubeproxy_bpf.plan.writes import Capacity, Dump, Plan

_LIVE = int(BackendFlags.LIVE)
_LOCAL = int(BackendFlags.LOCAL)
_RESTART = 0
"""Token under which all rests that a restart finds unused."""


class ServiceTable:
    """Everything behind the frontends."""

    def __init__(self, capacity: Capacity) -> None:
        self._indexes = IdPool(capacity.services)
        self._records = IdPool(capacity.records, dense=False)
        self._slots_all = range(1, capacity.slots)
        self._slots = Extents(self._slots_all.start, len(self._slots_all))
        self._backends = BackendTable(capacity.backends)
        self._generations = array("I", bytes(4 * capacity.services))
        self._published = bytearray(capacity.services)
        self._resting: dict[int, Freed] = {}
        self._resting_backends: dict[int, int] = {}
        self._freed = Freed()
        self._dead_backends: list[int] = []
        self._dead_services: list[int] = []
        self._renewed_backends: list[int] = []

    def restore(self, dump: Dump, recovered: Recovered) -> None:
        """Take over what the maps hold; all that is free rests under token 0."""
        for index, word in dump.services.items():
            if 0 < index < len(self._generations):
                self._generations[index] = word.generation
                self._published[index] = word.record != 0
        states = recovered.services.values()
        suspect = recovered.suspect
        rest = Freed()
        self._slots = Extents(0, 0)
        rest.extents = recovered.free_slots
        # Published, yet no frontend leads there: left behind by a crash.
        lost = {index for index, lit in enumerate(self._published) if lit} - {*recovered.services}
        rest.indexes = [*self._indexes.reserve({*recovered.services, *lost}), *lost]
        used = [state.record_id for state in states if state.record]
        rest.records = self._records.reserve(used + suspect.records)
        ids = {number for state in states for number in state.ids}
        rest.backends = self._backends.restore(dump.backends.items(), ids.union(suspect.backends))
        for state in states:
            self._refer(state.ids)
        self._resting[_RESTART] = rest

    @property
    def used(self) -> Capacity:
        """Entries of the arrays that are out, those that rest included."""
        slots = len(self._slots_all) - self._slots.free
        return Capacity(0, 0, self._indexes.used, self._records.used, slots, self._backends.used)

    # ---- what the maps should hold ----

    @property
    def last_index(self) -> int:
        """The last index that was ever out."""
        return self._indexes.last

    @property
    def last_backend(self) -> int:
        """The last backend id that was ever out."""
        return self._backends.last

    def word(self, state: Programmed) -> Service:
        """What is published under an index."""
        return Service(state.record_id, self._generations[state.index])

    def no_word(self, index: int) -> Service | None:
        """What stands where nothing is published; None if it is published or not yet retired."""
        if self._published[index] or index in self._dead_services:
            return None
        return Service(0, self._generations[index])

    def backends_written(self, numbers: Iterable[int]) -> list[tuple[int, BackendRow]]:
        """What stands under these ids, but for those that rest: nothing leads there any more."""
        dead = set(self._dead_backends)
        rows = self._backends.rows(numbers)
        return [row for row in rows if row[0] not in dead] if dead else rows

    # ---- publish ----

    def publish(self, state: Programmed | None, desired: Desired, plan: Plan) -> Programmed | str:
        """Write what differs, under a new index if there is no state; or name the full map."""
        found = self._find_backends(desired.backends, plan)
        if found is None:
            return "backends"
        ids, new = found
        if state is not None and _same(state, desired, ids):
            if state.renewed:
                state.renewed = False
                self._store_word(state, plan)
            return state
        taken = self._take(state, len(ids))
        if isinstance(taken, str):
            for number in reversed(new):
                self._backends.undo(number)
            return taken
        published = self._published_as(taken, state, desired, ids)
        plan.backends += self._backends.records(new)
        self._announce(published, plan)
        if state is not None:
            self.free(state, plan, ids)
        return published

    def republish(self, state: Programmed, plan: Plan) -> Programmed | str:
        """Publish the same under another record and extent; or name the full map."""
        assert state.record is not None
        ids = self._backends.current(state.ids)
        taken = self._take(state, len(ids))
        if isinstance(taken, str):
            return taken
        published = Programmed(state.index, state.frontends)
        published.inherited = state.inherited
        published.record_id, published.ids = taken[1], ids
        published.record = state.record._replace(slots=taken[2])
        self._announce(published, plan)
        # The same endpoints: sockets that have one keep it.
        self.free(state, plan, kept=state.ids)
        return published

    def republish_word(self, state: Programmed, plan: Plan) -> None:
        """Store the word once more; what it names is as it should be."""
        self._store_word(state, plan)

    def retire_word(self, index: int, plan: Plan) -> None:
        """Nothing is published under the index."""
        if (word := self.no_word(index)) is not None:
            plan.services[index] = word

    def renew_backend(self, number: int, held: Backend, plan: Plan) -> bool:
        """Write a backend as it should be: under another id unless only its flags differ.

        Tell whether its id changed: then all that have it are to be published anew.
        """
        ((_, wanted),) = self._backends.records((number,))
        flags = self._backends.flags[number]
        if not flags & _LIVE or held._replace(flags=flags) == wanted:
            plan.backends.append((number, wanted))
            return False
        renewed = self._backends.renew(number) if self._backends.in_use(number) else None
        if renewed is None:
            return False
        plan.backends += self._backends.records((renewed,))
        self._renewed_backends.append(renewed)
        return True

    def free_unused_backends(self) -> None:
        """After all is published: nobody had room for these new ids of backends."""
        unused = (n for n in self._renewed_backends if not self._backends.in_use(n))
        self._freed.backends += unused
        self._renewed_backends.clear()

    def renew(self, state: Programmed) -> None:
        """The index gets another owner: its next word, which must follow, has a new generation."""
        state.renewed = True
        self._generations[state.index] = next_generation(self._generations[state.index])

    def _published_as(
        self,
        taken: tuple[int, int, int],
        state: Programmed | None,
        desired: Desired,
        ids: array[int],
    ) -> Programmed:
        index, record_id, first = taken
        record = state.record if state else None
        switched = record and bool(record.affinity_timeout_s) != bool(desired.affinity_timeout_s)
        if state is None or switched:
            # A new owner, or affinity switched on or off, ends what programs remember [G7].
            self._generations[index] = next_generation(self._generations[index])
        published = Programmed(index, state.frontends if state else ())
        published.record_id, published.ids = record_id, ids
        published.record = Record(first, len(ids), *_of_record(desired), stats=index)
        return published

    def _find_backends(
        self, specs: Sequence[BackendSpec], plan: Plan
    ) -> tuple[array[int], list[int]] | None:
        """Ids of all endpoints in their order, and which of them are new; None without room."""
        table = self._backends
        known, flags_by_id = table.by_key, table.flags
        ids = array("I")
        new: list[int] = []
        for spec in specs:
            address, port, protocol, flags = spec
            key = (address, port, protocol, flags & _LOCAL)
            number = known.get(key)
            flags |= _LIVE
            if number is None:
                number = table.add(key, flags)
                if number is None:
                    for number in reversed(new):
                        table.undo(number)
                    return None
                new.append(number)
            elif flags_by_id[number] != flags:
                flags_by_id[number] = flags
                plan.backends.append((number, table.record(number)))
            ids.append(number)
        return ids, new

    def _take(self, state: Programmed | None, members: int) -> tuple[int, int, int] | str:
        """Take index, record id and extent, all or none; or name the map that is full."""
        index = state.index if state else self._indexes.take()
        if index is None:
            return "services"
        full = "records"
        record_id = self._records.take()
        if record_id is not None:
            first = self._slots.take(members) if members else 0
            if first is not None:
                return index, record_id, first
            full = "slots"
            self._records.undo(record_id)
        if state is None:
            self._indexes.undo(index)
        return full

    def _announce(self, published: Programmed, plan: Plan) -> None:
        """The writes that let programs see it; its backends are written."""
        assert published.record is not None
        if published.ids:
            plan.slots.append((published.record.slots, published.ids))
        plan.records.append((published.record_id, published.record))
        self._store_word(published, plan)
        self._refer(published.ids)

    def _store_word(self, state: Programmed, plan: Plan) -> None:
        self._published[state.index] = 1
        plan.services[state.index] = self.word(state)

    def _refer(self, ids: array[int]) -> None:
        references = self._backends.references
        for number in ids:
            if not references[number]:
                self._resting_backends.pop(number, None)
            references[number] += 1

    # ---- let go ----

    def free(self, state: Programmed, plan: Plan, kept: Collection[int] = ()) -> None:
        """Let go of what is published behind an index; it rests from the end of this plan."""
        if state.record is None:
            return
        self._freed.records.append(state.record_id)
        if state.record.members:
            self._freed.extents.append((state.record.slots, state.record.members))
        references = self._backends.references
        for number in state.ids:
            references[number] -= 1
            if not references[number]:
                self._freed.backends.append(number)
        if any(spec.protocol == Protocol.UDP for spec in state.frontends):
            lost = set(state.ids).difference(kept)
            plan.lost += [(state.index, number) for number in sorted(lost)]

    def free_index(self, index: int) -> None:
        """No frontend leads to the index any more once this plan is executed."""
        self._freed.indexes.append(index)

    def free_suspect(self, suspect: Freed) -> None:
        """Nothing leads any more to what the restart found unsound."""
        self._freed.absorb(suspect)

    # ---- quarantine ----

    @property
    def owes(self) -> bool:
        """Whether something that was released is still to be written down as dead."""
        return bool(self._dead_backends or self._dead_services)

    def hold(self, token: int) -> None:
        """The plan was not executed in full: what it freed rests with the next one."""
        if resting := self._resting.pop(token, None):
            self._freed.absorb(resting)

    def release(self, token: int) -> bool:
        """What rests under the token is free; False if that is nothing."""
        freed = self._resting.pop(token, None)
        if freed is None:
            return False
        if token == _RESTART:
            self._indexes.open()
            self._records.open()
            self._backends.open()
        for index in freed.indexes:
            if self._published[index]:
                self._published[index] = 0
                self._dead_services.append(index)
        self._indexes.give(freed.indexes)
        self._records.give(freed.records)
        for start, length in freed.extents:
            self._slots.give(start, length)
        resting = self._resting_backends
        for number in freed.backends:
            # One that came back in the meantime, or went a second time, does not rest under this.
            if not self._backends.in_use(number) and resting.get(number, token) == token:
                resting.pop(number, None)
                self._dead_backends += self._backends.retire(number)
        return True

    def retire(self, plan: Plan) -> None:
        """Write down that released ids lead nowhere, unless this plan has given them away again."""
        for number in self._dead_backends:
            if not self._backends.flags[number] & _LIVE:
                plan.backends.append((number, self._backends.record(number)))
        for index in self._dead_services:
            if not self._published[index]:
                plan.services[index] = Service(0, self._generations[index])
        self._dead_backends, self._dead_services = [], []

    def rest(self, plan: Plan) -> None:
        """Put what this plan freed to rest under its token."""
        freed, self._freed = self._freed, Freed()
        if freed:
            self._resting[plan.token] = freed
            for number in freed.backends:
                if not self._backends.references[number]:
                    self._resting_backends[number] = plan.token
        plan.frees = bool(freed)


def _of_record(desired: Desired) -> tuple[int, int, int, int, int]:
    """The fields that go into the record as they are, from ``cluster_count`` to ``flags``."""
    return desired[2:7]


def _same(state: Programmed, desired: Desired, ids: array[int]) -> bool:
    """Whether the published record says the same, be it in another order within its parts."""
    record = state.record
    if record is None or record[1:7] != (len(ids), *_of_record(desired)):
        return False
    if state.ids == ids:
        return True
    ends = sorted(
        (0, record.cluster_count, record.local_first, record.local_first + record.local_count)
    )
    parts = zip(ends, (*ends[1:], len(ids)))
    return all(sorted(state.ids[a:b]) == sorted(ids[a:b]) for a, b in parts)
