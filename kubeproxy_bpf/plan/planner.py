# SPDX-License-Identifier: Apache-2.0
"""Turns what should be served into an ordered plan of writes. Called by ``dataplane.program``.

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
5. A frontend that asks for source ranges is programmed after them, and also if they found no room:
   then it lets nobody in.
6. What somebody else wrote over (``doubt``) is published anew like any change, not repaired in its
   place.
7. Writes that the kernel refused (``settle``) are repeated by the next plan, and until they succeed
   nothing that the refused plan freed is handed out.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Mapping, Sequence

from kubeproxy_bpf.model.types import Changes, Desired, FrontendSpec, ServicePortId
from kubeproxy_bpf.plan.doubts import Doubts
from kubeproxy_bpf.plan.findings import Finding
from kubeproxy_bpf.plan.frontends import FrontendTable
from kubeproxy_bpf.plan.ranges import RangeTable
from kubeproxy_bpf.plan.records import Frontend, FrontendKey, FrontendKind
from kubeproxy_bpf.plan.restore import Freed, Programmed, recover
from kubeproxy_bpf.plan.services import ServiceTable
from kubeproxy_bpf.plan.vips import VipTable
from kubeproxy_bpf.plan.writes import Capacity, Dump, Failed, Plan

NOTHING = Changes({}, {})
"""No changes: repeats what was refused, retires what was released, retries what did not fit."""


class Planner:
    """Plans for one set of maps, empty at first. Plans are to be executed in order, each once."""

    def __init__(self, capacity: Capacity) -> None:
        self._ports: dict[ServicePortId, Programmed] = {}
        self._owners: dict[int, ServicePortId] = {}
        self._restored: dict[int, Programmed] = {}
        self._waiting: dict[ServicePortId, tuple[Desired, str]] = {}
        """What found no room, and in which map."""
        # Open to ``audit``, which only reads.
        self.frontends = FrontendTable(capacity.frontends)
        self.ranges = RangeTable(capacity.source_ranges)
        self.vips = VipTable(capacity.vips, lingers=capacity.source_ranges > 0)
        self._refused: Mapping[str, Callable[[Any], None]] = {
            "frontends": self.frontends.refused,
            "vips": self.vips.refused,
            "source_ranges": self.ranges.refused,
        }
        self.services = ServiceTable(capacity)
        self._doubts = Doubts()
        self._suspect = Freed()
        self._token = 0
        self._shed: dict[int, int] = {}
        """Indexes that lost a frontend, under which token: a program may still come from there."""
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
            self.services.owes
            or self.frontends.dirty
            or self.vips.dirty
            or self.ranges.dirty
            or self._doubts
            or (self._room and (self._waiting or self.vips.waiting))
        )

    @property
    def waiting(self) -> Sequence[ServicePortId]:
        """Service ports that are not, or not fully, programmed for lack of room."""
        return tuple(self._waiting)

    @property
    def programmed(self) -> int:
        """Number of service ports that are programmed."""
        return len(self._ports)

    @property
    def used(self) -> Capacity:
        """Entries in use of each map, those that rest included."""
        behind = self.services.used
        vips, frontends = len(self.vips.entries), len(self.frontends.entries)
        return behind._replace(vips=vips, frontends=frontends, source_ranges=self.ranges.used)

    def owner(self, key: FrontendKey) -> ServicePortId | None:
        """The service port to which a frontend leads."""
        entry = self.frontends.entries.get(key)
        return self._owners.get(entry.service) if entry else None

    @property
    def owners(self) -> Mapping[int, ServicePortId]:
        """Who has which service index; a live view."""
        return self._owners

    def state(self, index: int) -> Programmed | None:
        """What is published under a service index, as far as it is known."""
        port = self._owners.get(index)
        state = self._ports[port] if port is not None else self._restored.get(index)
        return state if state is not None and state.record is not None else None

    @property
    def lingering(self) -> Mapping[bytes, int]:
        """Addresses that stay for their flows alone, each with the plan since which it does."""
        return self.vips.lingering

    # ---- what the caller reports ----

    def settle(self, plan: Plan, failed: Iterable[Failed]) -> None:
        """Take note of the writes of a plan that the kernel refused."""
        failed = tuple(failed)
        for write in failed:
            self._refused[write.map](write.key)
        if failed:
            self.services.hold(plan.token)
            for index, token in self._shed.items():
                if token == plan.token:
                    self._shed[index] = self._token + 1

    def release(self, token: int) -> None:
        """A grace period has passed since the plan with this token: what it freed is free."""
        self._room = self.services.release(token) or self._room
        self._shed = {index: shed for index, shed in self._shed.items() if shed > token}

    def forget(self, addresses: Mapping[bytes, int]) -> None:
        """No flow leads to these of ``lingering`` any more: the next plan removes them."""
        self.vips.forget(addresses)

    def doubt(self, findings: Iterable[Finding]) -> None:
        """Somebody else wrote there: the next plan writes it anew, in the order of all plans."""
        for finding in findings:
            if finding.map == "frontends":
                self.frontends.doubt(finding.key, absent=finding.held is None)
            elif finding.map == "node_ports":
                self.frontends.ports.doubt(finding.key, finding.held)
            elif finding.map in self._refused:
                self._refused[finding.map](finding.key)
            else:
                self._doubts.add(finding)

    # ---- planning ----

    def plan(self, changes: Changes) -> Plan:
        """Return the writes that lead from what is programmed to what should be served."""
        self._token += 1
        plan = Plan(self._token)
        wanted = self._wanted(changes)
        gone = self._take_gone(changes)
        adopted = self._find_indexes(wanted, gone)
        plan.counts_cleared += [self._ports[port].index for port in adopted]
        if changes.complete:
            gone.update(self._restored)
            self._restored = {}
        self._drop_frontends(wanted, gone, changes.complete)
        for port, desired in wanted.items():
            if not self._program(port, desired, plan) and port in adopted:
                self._unadopt(port, gone)
        self._doubts.settle(self, plan)
        for state in gone.values():
            self.services.free(state, plan)
            self.services.free_index(state.index)
            self.ranges.drop(state.index)
        if changes.complete:
            self.ranges.drop_unowned(self._owners)
        self._completed = self._completed or changes.complete
        if self._suspect and self._completed:
            self._free_suspect()
        self.services.retire(plan)
        vips_room = self.vips.plan(changes.vips, changes.complete, plan)
        ranges_room = self.ranges.flush(plan)
        self._room = self.frontends.flush(plan) or vips_room or ranges_room
        self.services.rest(plan)
        plan.frees |= bool(plan.frontends_removed or plan.vips_removed or ranges_room)
        plan.unfit += ((port, full) for port, (_, full) in self._waiting.items())
        return plan

    def _wanted(self, changes: Changes) -> dict[ServicePortId, Desired]:
        wanted: dict[ServicePortId, Desired] = {}
        if self._room or changes.complete:
            wanted.update((port, desired) for port, (desired, _) in self._waiting.items())
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
        wants = self._who_wants(wanted)
        for port, desired in wanted.items():
            if port in self._ports:
                continue
            state = self._index_of(port, desired, gone, wants)
            if state is None:
                continue
            if gone.pop(state.index, None):
                adopted.add(port)
                self.services.renew(state)
            else:
                del self._restored[state.index]
            state.inherited = True
            self._own(port, state)
        return adopted

    def _who_wants(
        self, wanted: Mapping[ServicePortId, Desired]
    ) -> Mapping[FrontendKey, ServicePortId]:
        if not self._restored:
            return {}
        return {_key(spec): port for port, want in wanted.items() for spec in want.frontends}

    def _index_of(
        self,
        port: ServicePortId,
        desired: Desired,
        gone: Mapping[int, Programmed],
        wants: Mapping[FrontendKey, ServicePortId],
    ) -> Programmed | None:
        keys: set[FrontendKey] | None = None
        for spec in sorted(desired.frontends, key=lambda spec: spec.kind):
            entry = self.frontends.entries.get(_key(spec))
            if entry is None:
                continue
            restored = self._restored.get(entry.service)
            if restored is not None and spec.kind == FrontendKind.CLUSTER_IP:
                claims = {wants.get(_key(held), port) for held in self._held(restored)}
                if claims == {port}:
                    return restored
            state = restored or gone.get(entry.service)
            if state is None or state.index in self._shed:
                continue
            # No other frontend may lead to the new owner's backends, not even for a moment.
            keys = keys if keys is not None else {_key(spec) for spec in desired.frontends}
            if keys.issuperset(map(_key, self._held(state))):
                return state
        return None

    def _held(self, state: Programmed) -> list[FrontendSpec]:
        entries = self.frontends.entries
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
                self.frontends.drop(_key(spec), state.index)
        for port, desired in wanted.items():
            old = self._ports.get(port)
            if old is None or old.frontends == desired.frontends:
                continue
            kept = {_key(spec) for spec in desired.frontends}
            for spec in old.frontends:
                if _key(spec) not in kept:
                    self.frontends.drop(_key(spec), old.index)
                    self._shed[old.index] = self._token
        if complete:
            self.frontends.drop_unowned(self._owners)

    def _program(self, port: ServicePortId, desired: Desired, plan: Plan) -> bool:
        """Publish one service port, then its frontends; False when its endpoints did not fit."""
        self._waiting.pop(port, None)
        before = self._ports.get(port)
        inherited = before is None or before.inherited
        full = self._publish(port, desired, plan)
        state = self._ports.get(port)
        if state is not None and state.record is not None:
            state.inherited = False
            if not self.ranges.put(state.index, desired.source_ranges, inherited, plan):
                self._waiting[port] = desired, "source_ranges"
            if not self._lead_to(state, desired, plan):
                self._waiting[port] = desired, "frontends"
        if full is not None:
            self._waiting[port] = desired, full
        return full is None

    def _lead_to(self, state: Programmed, desired: Desired, plan: Plan) -> bool:
        state.frontends = desired.frontends
        fits = True
        put = self.frontends.put
        for spec in desired.frontends:
            value = Frontend(state.index, int(spec.kind), spec.flags)
            fits = put(_key(spec), value, self._owners, plan) and fits
        return fits

    def _publish(self, port: ServicePortId, desired: Desired, plan: Plan) -> str | None:
        """Publish what differs, or name the map that is full."""
        state = self._ports.get(port)
        if state is None and not self.frontends.fits(map(_key, desired.frontends)):
            return "frontends"
        published = self.services.publish(state, desired, plan)
        if isinstance(published, str):
            return published
        if state is None:
            plan.counts_cleared.append(published.index)
        self._own(port, published)
        return None

    def replace(self, state: Programmed) -> None:
        """The same is published for an index, elsewhere."""
        port = self._owners.get(state.index)
        if port is not None:
            self._ports[port] = state
        else:
            self._restored[state.index] = state

    def _own(self, port: ServicePortId, state: Programmed) -> None:
        self._ports[port] = state
        self._owners[state.index] = port

    # ---- what is no longer needed ----

    def _unadopt(self, port: ServicePortId, gone: dict[int, Programmed]) -> None:
        """The new owner of an index did not fit: it must not serve what the old one had."""
        state = self._ports.pop(port)
        del self._owners[state.index]
        gone[state.index] = state
        for spec in state.frontends:
            self.frontends.drop(_key(spec), state.index)

    def _free_suspect(self) -> None:
        """Once all is published anew, nothing leads to what the restart found unsound."""
        if all(state.record for state in self._ports.values()):
            self.services.free_suspect(self._suspect)
            self._suspect = Freed()

    # ---- restart ----

    def _restore(self, capacity: Capacity, dump: Dump) -> None:
        recovered = recover(dump, capacity)
        self._restored = recovered.services
        self._suspect = recovered.suspect
        self.services.restore(dump, recovered)
        self.frontends.restore(dump.frontends, dump.node_ports)
        self.vips.restore(dump.vips)
        self.ranges.restore(dump.source_ranges)


def _key(spec: FrontendSpec) -> FrontendKey:
    return FrontendKey(spec.address, spec.port, spec.protocol)
