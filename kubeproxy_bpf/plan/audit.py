# SPDX-License-Identifier: Apache-2.0
"""Compares what the planner believes with what the maps hold, and names every difference.

Somebody else may have written to the maps. ``audit`` walks over all of them in bounded steps;
between two of them plans may be made and executed, within one nothing may be. So nothing is
remembered over a step but keys: each is judged by what is believed and held at one moment. Compared
is what a program can reach: words of services and what these lead to, live backends, and all
entries of the hash maps but the canary's, which the loader writes. Ids that rest or are free hold
what they like. A write that the kernel refused, and that the next plan repeats, is no difference.
Nothing is repaired here: see ``Planner.doubt``. Called by ``dataplane.program``.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Protocol, Sequence

from kubeproxy_bpf.model.types import ServicePortId
from kubeproxy_bpf.plan.findings import Finding, Kind
from kubeproxy_bpf.plan.frontends import FrontendTable
from kubeproxy_bpf.plan.held import Entry, Held
from kubeproxy_bpf.plan.ranges import RangeTable
from kubeproxy_bpf.plan.records import Backend, BackendFlags, VipFlags
from kubeproxy_bpf.plan.restore import Programmed
from kubeproxy_bpf.plan.vips import VipTable

if TYPE_CHECKING:
    from kubeproxy_bpf.plan.planner import Planner


class Believed(Protocol):
    """Entries of a hash map as the planner has them."""

    def keys(self) -> Iterable[Any]: ...

    def get(self, key: Any) -> Any | None: ...


HASHES = ("frontends", "vips", "source_ranges")
_LIVE = int(BackendFlags.LIVE)
_CANARY = int(VipFlags.CANARY)
_INDEXES, _BACKENDS, _KEYS = 256, 1024, 1024
"""Of one step, which takes some milliseconds."""


Step = list[Finding]


def audit(planner: Planner, held: Held) -> Iterator[Step]:
    """Compare everything; each step reads and compares at once what it yields."""
    last = planner.services.last_index
    for first in range(1, last + 1, _INDEXES):
        yield _published(planner, held, range(first, min(first + _INDEXES, last + 1)))
    for first in range(1, planner.services.last_backend + 1, _BACKENDS):
        yield _backends(planner, held, range(first, first + _BACKENDS))
    yield _ports(planner, held)
    for name in HASHES:
        yield from _hash(planner, held, name)


def recheck(planner: Planner, held: Held, findings: Iterable[Finding]) -> Step:
    """Those findings that are still true, as of now."""
    by_map: dict[str, list[Finding]] = {}
    for finding in findings:
        by_map.setdefault(finding.map, []).append(finding)
    still: Step = []
    indexes = {f.service for name in ("services", "records", "slots") for f in by_map.get(name, ())}
    still += _published(planner, held, sorted(indexes))
    still += _backends(planner, held, sorted(f.key for f in by_map.get("backends", ())))
    if "node_ports" in by_map:
        still += _ports(planner, held)
    for name in HASHES:
        if name in by_map:
            still += _keys(planner, held, name, [finding.key for finding in by_map[name]])
    return still


# ---- arrays ----


def _published(planner: Planner, held: Held, indexes: Sequence[int]) -> Step:
    """Words, records and slots of some indexes."""
    states = {index: state for index in indexes if (state := planner.state(index)) is not None}
    words = [(index, planner.services.word(state)) for index, state in states.items()]
    words += ((index, word) for index in indexes if (word := planner.services.no_word(index)))
    records = {state.record_id: (index, state) for index, state in states.items()}
    runs = {s.record.slots: (i, s) for i, s in states.items() if s.record and s.record.members}
    found = [
        Finding("services", key, _kind(value.record, key in states), value, service=key)
        for key, value in held.differing("services", words)
    ]
    found += (
        Finding("records", key, _kind(any(value)), value, service=records[key][0])
        for key, value in held.differing(
            "records", [(k, s.record) for k, (_, s) in records.items()]
        )
    )
    found += (
        _slot(first, runs[first], value)
        for first, value in held.differing("slots", [(k, s.ids) for k, (_, s) in runs.items()])
    )
    owners = planner.owners
    return [finding._replace(owner=owners.get(finding.service)) for finding in found]


def _slot(first: int, at: tuple[int, Programmed], held: Sequence[int]) -> Finding:
    index, state = at
    offset = next(i for i, (a, b) in enumerate(zip(held, state.ids, strict=True)) if a != b)
    value = held[offset]
    return Finding("slots", first + offset, _kind(value), value, service=index)


def _backends(planner: Planner, held: Held, numbers: Sequence[int]) -> Step:
    """Live ones are as they should be, and none but they are live."""
    written = planner.services.backends_written(numbers)
    differing = held.differing("backends", written)
    if not differing:
        return []
    live = {number for number, row in written if Backend._make(row).flags & _LIVE}
    differing = [each for each in differing if each[0] in live or each[1].flags & _LIVE]
    owners = _backend_owners(planner, {number for number, _ in differing})
    return [
        Finding(
            "backends",
            number,
            _kind(any((any(value.address), *value[1:])), number in live),
            value,
            owners.get(number),
        )
        for number, value in differing
    ]


def _backend_owners(planner: Planner, numbers: set[int]) -> dict[int, ServicePortId]:
    """Somebody who has each; there may be others."""
    owners: dict[int, ServicePortId] = {}
    for index, port in planner.owners.items():
        state = planner.state(index)
        if state is not None:
            owners.update(dict.fromkeys(numbers.intersection(state.ids), port))
    return owners


def _ports(planner: Planner, held: Held) -> Step:
    words = planner.frontends.ports.words
    found = []
    for number, value in held.differing("node_ports", list(enumerate(words))):
        wrong = words[number] ^ value
        kind = Kind.DIFFERS if wrong & words[number] and wrong & value else Kind.EXTRA
        if not wrong & value:
            kind = Kind.MISSING
        found.append(
            Finding("node_ports", number, kind, value, _port_owner(planner, number, wrong))
        )
    return found


def _port_owner(planner: Planner, number: int, bits: int) -> ServicePortId | None:
    for key, entry in planner.frontends.entries.items():
        if key.port >> 6 == number and bits >> (key.port & 63) & 1:
            return planner.owners.get(entry.service)
    return None


def _kind(there: object, wanted: bool = True) -> Kind:
    if not wanted:
        return Kind.EXTRA
    return Kind.DIFFERS if there else Kind.MISSING


# ---- hash maps ----


def _hash(planner: Planner, held: Held, name: str) -> Iterator[Step]:
    """What is there, part by part; then those that nobody met, which may have come meanwhile."""
    unmet = set(_believed(planner, name).keys())
    for part in held.entries(name):
        unmet.difference_update(key for key, _ in part)
        yield _judge(planner, name, part, ())
    left = iter(unmet)
    while keys := list(islice(left, _KEYS)):
        yield _keys(planner, held, name, keys)


def _keys(planner: Planner, held: Held, name: str, keys: Sequence[Any]) -> Step:
    there = held.lookup(name, keys)
    return _judge(planner, name, there.items(), (key for key in keys if key not in there))


def _judge(planner: Planner, name: str, there: Iterable[Entry], absent: Iterable[Any]) -> Step:
    believed, unwritten = _believed(planner, name), _table(planner, name).unwritten
    found = []
    for key, value in there:
        wanted = believed.get(key)
        if wanted == value or key in unwritten:
            continue
        if wanted is not None:
            found.append((key, Kind.DIFFERS, value))
        elif name != "vips" or not value & _CANARY:
            found.append((key, Kind.EXTRA, value))
    found += (
        (key, Kind.MISSING, None)
        for key in absent
        if believed.get(key) is not None and key not in unwritten
    )
    if not found:
        return []
    owner_of = _OWNERS[name](planner)
    return [Finding(name, *each, owner_of(each[0], each[2])) for each in found]


def _table(planner: Planner, name: str) -> FrontendTable | VipTable | RangeTable:
    if name == "frontends":
        return planner.frontends
    return planner.vips if name == "vips" else planner.ranges


def _believed(planner: Planner, name: str) -> Believed:
    table = _table(planner, name)
    return table if isinstance(table, RangeTable) else table.entries


OwnerOf = Callable[[Any, Any], ServicePortId | None]


def _frontend_owner(planner: Planner) -> OwnerOf:
    entries, owners = planner.frontends.entries, planner.owners

    def owner_of(key: Any, held: Any) -> ServicePortId | None:
        entry = entries.get(key) or held
        return owners.get(entry.service)

    return owner_of


def _vip_owner(planner: Planner) -> OwnerOf:
    """Somebody with a frontend there."""
    by_address = {key.address: entry.service for key, entry in planner.frontends.entries.items()}
    return lambda key, held: planner.owners.get(by_address.get(key, 0))


def _range_owner(planner: Planner) -> OwnerOf:
    return lambda key, held: planner.owners.get(key.service)


_OWNERS = {"frontends": _frontend_owner, "vips": _vip_owner, "source_ranges": _range_owner}
