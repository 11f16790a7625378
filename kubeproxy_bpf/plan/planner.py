# SPDX-License-Identifier: Apache-2.0
"""Turns what should be served into an ordered plan of writes. Pure; called by ``dataplane.program``.

The planner remembers per service port what is programmed, and compares only what changed with it:
work is proportional to the change. Its rules:

1. What a program may be reading is never written. A change of endpoints is a new extent, a new
   record and one word of ``services``; what was there before rests until the writer reports a grace
   period (``release``).
2. A frontend never changes in place. A new service port that takes over all frontends of one that
   goes away in the same changes adopts its index: no frontend is written and there is no gap.
   Otherwise the entry is replaced.
3. A service port that finds no room keeps what it had, is reported, and is tried again when room
   appears. All others are programmed.
4. Nothing is removed unless it is named, except by ``complete`` changes: what they do not name is
   stale.
5. Writes that the kernel refused (``settle``) are repeated by the next plan, and until they succeed
   nothing that the refused plan freed is handed out.
"""

from __future__ import annotations

from array import array
from typing import Iterable, Mapping, Sequence

from kubeproxy_bpf.model.types import (
    BackendSpec,
    Changes,
    Desired,
    FrontendSpec,
    Protocol,
    ServicePortId,
)
from kubeproxy_bpf.plan.extents import Extents
from kubeproxy_bpf.plan.frontends import FrontendTable, VipTable
from kubeproxy_bpf.plan.ids import BackendTable, IdPool, next_generation
from kubeproxy_bpf.plan.records import (
    BackendFlags,
    Frontend,
    FrontendKey,
    FrontendKind,
    Record,
    Service,
)
from kubeproxy_bpf.plan.restore import Freed, Programmed, recover
from kubeproxy_bpf.plan.writes import Capacity, Dump, Failed, Plan

NOTHING = Changes({}, {})
"""No changes: repeats what was refused, retires what was released, retries what did not fit."""

_LIVE = int(BackendFlags.LIVE)


class Planner:
    """Plans for one set of maps, empty at first. Plans are to be executed in order, each once."""

    def __init__(self, capacity: Capacity) -> None:
        self._ports: dict[ServicePortId, Programmed] = {}
        self._owners: dict[int, ServicePortId] = {}
        self._restored: dict[int, Programmed] = {}
        self._waiting: dict[ServicePortId, Desired] = {}
        self._frontends = FrontendTable(capacity.frontends)
        self._vips = VipTable(capacity.vips)
        self._indexes = IdPool(capacity.services)
        self._records = IdPool(capacity.records, dense=False)
        self._slots = Extents(1, capacity.slots - 1)
        self._backends = BackendTable(capacity.backends)
        self._generations = array("I", bytes(4 * capacity.services))
        self._published = bytearray(capacity.services)
        self._token = 0
        self._resting: dict[int, Freed] = {}
        self._resting_backends: dict[int, int] = {}
        self._freed = Freed()
        self._suspect = Freed()
        self._dead_backends: list[int] = []
        self._dead_services: list[int] = []
        self._room = False
        self._completed = False

    @classmethod
    def restore(cls, capacity: Capacity, dump: Dump) -> Planner:
        """Take over what the maps hold. All that is free rests under token 0: release it first."""
        planner = cls(capacity)
        planner._restore(capacity, dump)
        return planner

    # ---- what the caller asks ----

    @property
    def owes(self) -> bool:
        """Whether a plan of NOTHING would do something."""
        return bool(
            self._dead_backends
            or self._dead_services
            or self._frontends.dirty
            or self._vips.dirty
            or (self._room and (self._waiting or self._vips.waiting))
        )

    @property
    def waiting(self) -> Sequence[ServicePortId]:
        """Service ports that are not, or not fully, programmed for lack of room."""
        return tuple(self._waiting)

    def owner(self, key: FrontendKey) -> ServicePortId | None:
        """The service port to which a frontend leads."""
        entry = self._frontends.entries.get(key)
        return self._owners.get(entry.service) if entry else None

    # ---- what the caller reports ----

    def settle(self, plan: Plan, failed: Iterable[Failed]) -> None:
        """Take note of the writes of a plan that the kernel refused."""
        failed = tuple(failed)
        for write in failed:
            (self._vips if write.map == "vips" else self._frontends).refused(write.key)
        if failed and (resting := self._resting.pop(plan.token, None)):
            self._freed.absorb(resting)

    def release(self, token: int) -> None:
        """A grace period has passed since the plan with this token: what it freed is free."""
        freed = self._resting.pop(token, None)
        if freed is None:
            return
        self._room = True
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

    # ---- planning ----

    def plan(self, changes: Changes) -> Plan:
        """Return the writes that lead from what is programmed to what should be served."""
        self._token += 1
        plan = Plan(self._token)
        wanted = self._wanted(changes)
        gone = self._take_gone(changes)
        adopted = self._find_indexes(wanted, gone)
        if changes.complete:
            gone.update(self._restored)
            self._restored = {}
        self._drop_frontends(wanted, gone, changes.complete)
        for port, desired in wanted.items():
            if not self._program(port, desired, plan) and port in adopted:
                self._unadopt(port, gone)
        for state in gone.values():
            self._free(state)
            self._freed.indexes.append(state.index)
        self._completed = self._completed or changes.complete
        if self._suspect and self._completed:
            self._free_suspect()
        self._retire(plan)
        vips_room = self._vips.plan(changes.vips, changes.complete, plan)
        self._room = self._frontends.flush(plan) or vips_room
        self._rest(plan)
        return plan

    def _wanted(self, changes: Changes) -> dict[ServicePortId, Desired]:
        wanted: dict[ServicePortId, Desired] = {}
        if self._room or changes.complete:
            wanted.update(self._waiting)
        for port, desired in changes.services.items():
            self._waiting.pop(port, None)
            if desired is not None:
                wanted[port] = desired
            else:
                wanted.pop(port, None)
        if changes.complete:
            wanted = {port: wanted[port] for port in wanted if port in changes.services}
            self._waiting.clear()
        return wanted

    def _take_gone(self, changes: Changes) -> dict[int, Programmed]:
        gone = [port for port, desired in changes.services.items() if desired is None]
        if changes.complete:
            gone += [port for port in self._ports if port not in changes.services]
        states = [self._ports.pop(port) for port in gone if port in self._ports]
        for state in states:
            del self._owners[state.index]
        return {state.index: state for state in states}

    def _find_indexes(
        self, wanted: Mapping[ServicePortId, Desired], gone: dict[int, Programmed]
    ) -> set[ServicePortId]:
        """Let new service ports take over an index through the frontends that lead to it.

        After a restart this is how a service port finds its own again. Return those that took over
        the index of one that is gone.
        """
        adopted: set[ServicePortId] = set()
        if not gone and not self._restored:
            return adopted
        for port, desired in wanted.items():
            if port in self._ports:
                continue
            state = self._index_of(desired, gone)
            if state is None:
                continue
            if gone.pop(state.index, None):
                adopted.add(port)
                state.renewed = True
                self._generations[state.index] = next_generation(self._generations[state.index])
            else:
                del self._restored[state.index]
            self._own(port, state)
        return adopted

    def _index_of(self, desired: Desired, gone: Mapping[int, Programmed]) -> Programmed | None:
        keys: set[FrontendKey] | None = None
        for spec in sorted(desired.frontends, key=lambda spec: spec.kind):
            entry = self._frontends.entries.get(_key(spec))
            if entry is None:
                continue
            restored = self._restored.get(entry.service)
            if restored is not None and spec.kind == FrontendKind.CLUSTER_IP:
                return restored
            state = restored or gone.get(entry.service)
            if state is None:
                continue
            # No other frontend may lead to the new owner's backends, not even for a moment.
            keys = keys if keys is not None else {_key(spec) for spec in desired.frontends}
            if keys.issuperset(map(_key, self._held(state))):
                return state
        return None

    def _held(self, state: Programmed) -> list[FrontendSpec]:
        entries = self._frontends.entries
        return [
            spec
            for spec in state.frontends
            if (entry := entries.get(_key(spec))) is not None and entry.service == state.index
        ]

    def _drop_frontends(
        self,
        wanted: Mapping[ServicePortId, Desired],
        gone: Mapping[int, Programmed],
        complete: bool,
    ) -> None:
        for state in gone.values():
            for spec in state.frontends:
                self._frontends.drop(_key(spec), state.index)
        for port, desired in wanted.items():
            old = self._ports.get(port)
            if old is None or old.frontends == desired.frontends:
                continue
            kept = {_key(spec) for spec in desired.frontends}
            for spec in old.frontends:
                if _key(spec) not in kept:
                    self._frontends.drop(_key(spec), old.index)
        if complete:
            self._frontends.drop_unowned(self._owners)

    def _program(self, port: ServicePortId, desired: Desired, plan: Plan) -> bool:
        """Publish one service port, then its frontends; False when its endpoints did not fit."""
        self._waiting.pop(port, None)
        full = self._publish(port, desired, plan)
        state = self._ports.get(port)
        if state is not None and state.record is not None:
            if not self._lead_to(state, desired, plan):
                self._did_not_fit(port, desired, "frontends", plan)
        if full is not None:
            self._did_not_fit(port, desired, full, plan)
        return full is None

    def _did_not_fit(self, port: ServicePortId, desired: Desired, full: str, plan: Plan) -> None:
        self._waiting[port] = desired
        plan.unfit.append((port, full))

    def _lead_to(self, state: Programmed, desired: Desired, plan: Plan) -> bool:
        state.frontends = desired.frontends
        fits = True
        put = self._frontends.put
        for spec in desired.frontends:
            value = Frontend(state.index, int(spec.kind), spec.flags)
            fits = put(_key(spec), value, self._owners, plan) and fits
        return fits

    def _publish(self, port: ServicePortId, desired: Desired, plan: Plan) -> str | None:
        """Write backends, slots, record and word as far as they differ; or name the full map."""
        state = self._ports.get(port)
        if state is None and not self._frontends.fits(map(_key, desired.frontends)):
            return "frontends"
        found = self._find_backends(desired.backends, plan)
        if found is None:
            return "backends"
        ids, new = found
        if state is not None and _same(state, desired, ids):
            if state.renewed:
                state.renewed = False
                self._store_word(state, plan)
            return None
        taken = self._take(state, len(ids))
        if isinstance(taken, str):
            for number in reversed(new):
                self._backends.undo(number)
            return taken
        index, record_id, first = taken
        self._count_life(index, state, desired)
        old = state
        state = Programmed(index, state.frontends if state else ())
        state.record_id, state.ids = record_id, ids
        state.record = Record(first, len(ids), *desired[2:], stats=index)
        self._own(port, state)
        plan.backends += [(number, self._backends.record(number)) for number in new]
        if ids:
            plan.slots.append((first, ids))
        plan.records.append((record_id, state.record))
        self._store_word(state, plan)
        self._refer(ids)
        if old is not None:
            self._free(old)
            if port.protocol == Protocol.UDP:
                plan.lost += [(index, number) for number in set(old.ids).difference(ids)]
        return None

    def _find_backends(
        self, specs: Sequence[BackendSpec], plan: Plan
    ) -> tuple[array[int], list[int]] | None:
        """Ids of all endpoints in their order, and which of them are new; None without room."""
        table = self._backends
        known, flags_by_id = table.by_key, table.flags
        ids = array("I")
        new: list[int] = []
        for spec in specs:
            key = spec[:3]
            number = known.get(key)
            flags = spec.flags | _LIVE
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

    def _count_life(self, index: int, state: Programmed | None, desired: Desired) -> None:
        """A new owner, or affinity switched on or off, ends what programs remember [G7]."""
        record = state.record if state else None
        switched = record and bool(record.affinity_timeout_s) != bool(desired.affinity_timeout_s)
        if state is None or switched:
            self._generations[index] = next_generation(self._generations[index])

    def _store_word(self, state: Programmed, plan: Plan) -> None:
        self._published[state.index] = 1
        plan.services[state.index] = Service(state.record_id, self._generations[state.index])

    def _own(self, port: ServicePortId, state: Programmed) -> None:
        self._ports[port] = state
        self._owners[state.index] = port

    def _refer(self, ids: array[int]) -> None:
        references = self._backends.references
        for number in ids:
            if not references[number]:
                self._resting_backends.pop(number, None)
            references[number] += 1

    # ---- what is no longer needed ----

    def _unadopt(self, port: ServicePortId, gone: dict[int, Programmed]) -> None:
        """The new owner of an index did not fit: it must not serve what the old one had."""
        state = self._ports.pop(port)
        del self._owners[state.index]
        gone[state.index] = state
        for spec in state.frontends:
            self._frontends.drop(_key(spec), state.index)

    def _free(self, state: Programmed) -> None:
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

    def _free_suspect(self) -> None:
        """Once all is published anew, nothing leads to what the restart found unsound."""
        if all(state.record for state in self._ports.values()):
            self._freed.absorb(self._suspect)
            self._suspect = Freed()

    def _retire(self, plan: Plan) -> None:
        """Write down that released ids lead nowhere, unless this plan has given them away again."""
        for number in self._dead_backends:
            if not self._backends.flags[number] & _LIVE:
                plan.backends.append((number, self._backends.record(number)))
        for index in self._dead_services:
            if not self._published[index]:
                plan.services[index] = Service(0, self._generations[index])
        self._dead_backends, self._dead_services = [], []

    def _rest(self, plan: Plan) -> None:
        freed, self._freed = self._freed, Freed()
        if freed:
            self._resting[plan.token] = freed
            for number in freed.backends:
                if not self._backends.references[number]:
                    self._resting_backends[number] = plan.token
        plan.frees = bool(freed or plan.frontends_removed or plan.vips_removed)

    # ---- restart ----

    def _restore(self, capacity: Capacity, dump: Dump) -> None:
        recovered = recover(dump, capacity)
        self._restored = recovered.services
        self._suspect = recovered.suspect
        for index, word in dump.services.items():
            self._generations[index] = word.generation
            self._published[index] = word.record != 0
        self._frontends.restore(dump.frontends, dump.node_ports)
        self._vips.entries = dict(dump.vips)
        rest = Freed()
        rest.extents = recovered.free_slots
        self._slots = Extents(0, 0)
        states = recovered.services.values()
        rest.indexes = self._indexes.reserve(recovered.services)
        used = [state.record_id for state in states if state.record]
        rest.records = self._records.reserve(used + self._suspect.records)
        ids = {number for state in states for number in state.ids}
        rest.backends = self._backends.restore(
            dump.backends.items(), ids.union(self._suspect.backends)
        )
        for state in states:
            self._refer(state.ids)
        self._resting[0] = rest


def _key(spec: FrontendSpec) -> FrontendKey:
    return FrontendKey(spec.address, spec.port, spec.protocol)


def _same(state: Programmed, desired: Desired, ids: array[int]) -> bool:
    """Whether the published record says the same, be it in another order within its parts."""
    record = state.record
    if record is None or record[1:7] != (len(ids), *desired[2:]):
        return False
    if state.ids == ids:
        return True
    ends = sorted(
        (0, record.cluster_count, record.local_first, record.local_first + record.local_count)
    )
    parts = zip(ends, (*ends[1:], len(ids)))
    return all(sorted(state.ids[a:b]) == sorted(ids[a:b]) for a, b in parts)
