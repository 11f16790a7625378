# SPDX-License-Identifier: Apache-2.0
"""Small worlds of service ports, what the maps say of them, and readers that watch every write."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from kubeproxy_bpf.dataplane.fake import FakeDataplane
from kubeproxy_bpf.model.types import Changes, Desired, FrontendSpec, Prefix, ServicePortId
from kubeproxy_bpf.plan.records import (
    BackendFlags,
    Frontend,
    FrontendFlags,
    FrontendKey,
    FrontendKind,
    SourceRange,
    VipFlags,
)
from tests.plan_objects import (
    cluster_ip,
    complete,
    desired,
    external_ip,
    load_balancer,
    node_port,
    port_id,
    prefixes,
    vips_of,
)

World = dict[ServicePortId, Desired]
Key = tuple[bytes, int, int]

PORTS = [port_id(name) for name in "abcd"]
FRONTENDS = [
    *(cluster_ip(f"10.96.0.{i}") for i in range(1, 5)),
    *(external_ip(f"203.0.113.{i}") for i in range(1, 3)),
    *(load_balancer(f"198.51.100.{i}") for i in range(1, 3)),
    *(node_port(30000 + i) for i in range(2)),
]
RANGES = ["192.0.2.0/24", "192.0.2.0/28", "10.1.0.0/16"]
EVERYBODY = Prefix(bytes(16), 0)
ADDRESSES = [f"10.0.0.{i}" for i in range(1, 7)]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Some service ports; every frontend belongs to one of them or to none."""
    owners = draw(
        st.lists(st.sampled_from([*PORTS, None]), min_size=len(FRONTENDS), max_size=len(FRONTENDS))
    )
    world: World = {}
    for port in PORTS:
        fronts = [spec for spec, owner in zip(FRONTENDS, owners) if owner == port]
        if fronts:
            backends = draw(st.lists(st.sampled_from(ADDRESSES), unique=True, max_size=4))
            affinity = draw(st.sampled_from([0, 10]))
            ranges = draw(st.lists(st.sampled_from(RANGES), unique=True, max_size=2))
            world[port] = desired(_filtered(fronts, bool(ranges)), backends, affinity)._replace(
                source_ranges=prefixes(*ranges)
            )
    return world


def _filtered(fronts: list[FrontendSpec], ranges: bool) -> list[FrontendSpec]:
    """Load-balancer frontends of a service port without ranges are open to everybody."""
    flags = int(FrontendFlags.EXTERNAL)
    balanced = FrontendKind.LOAD_BALANCER
    return [s if ranges or s.kind != balanced else s._replace(flags=flags) for s in fronts]


def step_from(old: World | None, new: World) -> Changes:
    """What the model says when one world follows another."""
    if old is None:
        return complete(new)
    services: dict[ServicePortId, Desired | None] = {port: None for port in old if port not in new}
    services.update({port: want for port, want in new.items() if old.get(port) != want})
    before, after = vips_of(old), vips_of(new)
    vips = {address: after.get(address, 0) for address in before | after}
    return Changes(services, {a: f for a, f in vips.items() if before.get(a, 0) != f})


def key_of(spec: FrontendSpec) -> Key:
    return spec[:3]


def backends_of(want: Desired) -> frozenset[Key]:
    return frozenset(backend[:3] for backend in want.backends)


def wanted_of(world: World | None) -> dict[Key, frozenset[Key]]:
    """Frontend to the backends to which it should lead."""
    return {
        key_of(spec): backends_of(want)
        for want in (world or {}).values()
        for spec in want.frontends
    }


def ranges_of(fake: FakeDataplane, index: int) -> set[Prefix]:
    """Who may come to a service index."""
    keys = (key for key in fake.source_ranges if key.service == index)
    return {Prefix(key.source, key.prefix_bits - 32) for key in keys}


def let_in(fake: FakeDataplane, frontend: Frontend) -> set[Prefix]:
    """Who may come through a frontend."""
    filtered = frontend.flags & FrontendFlags.SOURCE_RANGES
    return ranges_of(fake, frontend.service) if filtered else {EVERYBODY}


def wanted_in(want: Desired, spec: FrontendSpec) -> set[Prefix]:
    """Who should come through a frontend."""
    return set(want.source_ranges) if spec.flags & FrontendFlags.SOURCE_RANGES else {EVERYBODY}


def led_to(fake: FakeDataplane, index: int) -> frozenset[Key] | None:
    """The backends behind a service index; None for a half state."""
    word = fake.services.get(index)
    record = fake.records.get(word.record) if word and word.record else None
    if record is None:
        return None
    found = [fake.backends.get(n) for n in fake.slots[record.slots : record.slots + record.members]]
    if any(backend is None or not backend.flags & BackendFlags.LIVE for backend in found):
        return None
    return frozenset(backend[:3] for backend in found if backend)


class Readers:
    """Programs that stop after any of their reads and go on later, until a grace period ends.

    They remember everything that was reachable since the last one; none of it may be written, and
    an index that they took from a frontend must lead to what that frontend was to lead to. Nobody
    comes through a frontend whom no owner of it lets in, and whom all worlds let in always does,
    unless the frontend goes.
    """

    def __init__(self, fake: FakeDataplane) -> None:
        self._fake = fake
        self._held: dict[tuple[str, int], Any] = {}
        self._indexes: set[tuple[Key, int]] = set()
        self._allowed: dict[Key, set[frozenset[Key] | None]] = {}
        self._ports: dict[Key, set[ServicePortId]] = {}
        self._doors: dict[Key, list[set[Prefix]]] = {}
        self._inside: dict[Key, set[Prefix]] = {}

    def expect(self, old: World | None, new: World) -> None:
        """From now on frontends may also lead as the new world says.

        One that goes or moves stays with its service port for a while, which may have changed.
        """
        for world in (old or {}, new):
            for port, want in world.items():
                for spec in want.frontends:
                    self._ports.setdefault(key_of(spec), set()).add(port)
                    self._doors.setdefault(key_of(spec), []).append(wanted_in(want, spec))
                    self._inside.setdefault(key_of(spec), set()).update(wanted_in(want, spec))
        # What goes needs not let in anybody to the end.
        kept = {key_of(spec) for want in new.values() for spec in want.frontends}
        self._doors = {key: doors for key, doors in self._doors.items() if key in kept}
        for key, ports in self._ports.items():
            owners = [world[p] for world in (old or {}, new) for p in ports & set(world)]
            self._allowed.setdefault(key, set()).update(map(backends_of, owners))
            self._inside[key].update(*(want.source_ranges for want in owners))

    def grace(self) -> None:
        """Whoever came from a frontend has gone on."""
        self._indexes.clear()

    def expect_heir(self, old: Desired, new: Desired) -> None:
        """What led to one service port may lead to another."""
        for spec in old.frontends:
            self._allowed[key_of(spec)].add(backends_of(new))
            self._inside[key_of(spec)].update(new.source_ranges)
            if new.source_ranges != old.source_ranges:
                # Which of two is meant is not known, so doubtful clients wait for the new one.
                self._doors.pop(key_of(spec), None)

    def look(self) -> None:
        """Read all that can be reached; check all that was read before."""
        for key, frontend in self._fake.frontends.items():
            self._indexes.add((tuple(key), frontend.service))
            self._remember(frontend.service)
            self._look_at_door(tuple(key), frontend)
        for key, index in self._indexes:
            assert led_to(self._fake, index) in self._allowed[key], (key, index)
        for (name, number), value in self._held.items():
            assert value == self._value(name, number), (name, number)

    def _look_at_door(self, key: Key, frontend: Frontend) -> None:
        """An open door lets in everybody of every range."""
        inside = let_in(self._fake, frontend)
        assert inside <= self._inside[key], key
        filtered = [door for door in self._doors.get(key, ()) if door != {EVERYBODY}]
        if EVERYBODY not in inside and filtered:
            assert set.intersection(*filtered) <= inside, key

    def _remember(self, index: int) -> None:
        record_id = self._fake.services[index].record
        record = self._fake.records[record_id]
        self._held["records", record_id] = record
        for position in range(record.slots, record.slots + record.members):
            self._held["slots", position] = self._fake.slots[position]
            number = self._fake.slots[position]
            self._held["backends", number] = self._value("backends", number)

    def _value(self, name: str, number: int) -> Any:
        value = getattr(self._fake, name)[number]
        return (
            value._replace(flags=value.flags & BackendFlags.LIVE) if name == "backends" else value
        )


def assert_programmed(fake: FakeDataplane, world: World) -> None:
    """The maps say exactly what the world says, and nothing is left over."""
    wanted = wanted_of(world)
    assert wanted == {tuple(key): led_to(fake, f.service) for key, f in fake.frontends.items()}
    lingering = {a for a, flags in fake.vips.items() if flags == VipFlags.LINGER}
    assert vips_of(world) == {a: f for a, f in fake.vips.items() if a not in lingering}
    for port, want in world.items():
        for spec in want.frontends:
            frontend = fake.frontends[FrontendKey(*key_of(spec))]
            assert wanted_in(want, spec) == let_in(fake, frontend)
            assert set(want.source_ranges) == ranges_of(fake, frontend.service)
    assert {key.service for key in fake.source_ranges} <= {
        frontend.service for frontend in fake.frontends.values()
    }
    assert set(fake.source_ranges.values()) <= {SourceRange(1)}
    live = {b[:3] for b in fake.backends.values() if b.flags & BackendFlags.LIVE}
    assert live == set().union(*wanted.values()) if wanted else not live
    used = {frontend.service for frontend in fake.frontends.values()}
    assert used == {index for index, word in fake.services.items() if word.record}
    words = [(number, word) for number, word in enumerate(fake.node_ports) if word]
    bits = {number << 6 | bit for number, word in words for bit in range(64) if word >> bit & 1}
    assert {
        spec.port for spec in FRONTENDS if key_of(spec) in wanted and spec.port >= 30000
    } == bits
