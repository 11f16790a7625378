# SPDX-License-Identifier: Apache-2.0
"""What passes between planner and writer: a plan of writes, and a dump of what is programmed.

A plan is executed in the order in which its fields stand here, which is the order that makes every
prefix of it safe; ``Plan.steps`` spells it out one write at a time. Values only, no behaviour: the
planner makes plans, ``dataplane.writer`` and ``dataplane.fake`` execute them.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

from kubeproxy_bpf.model.types import ServicePortId
from kubeproxy_bpf.plan.records import (
    Backend,
    Frontend,
    FrontendKey,
    Record,
    Service,
    SourceRange,
    SourceRangeKey,
)

PORT_WORDS = 1024
"""64-bit words of the port bitmap: bit ``port & 63`` of word ``port >> 6``."""


class Capacity(NamedTuple):
    """Entries of each map. Arrays lose entry 0, which means "none"."""

    vips: int
    frontends: int
    services: int
    records: int
    slots: int
    backends: int
    source_ranges: int = 0
    """0: there is no packet path, so nobody looks at ranges and no flow outlives its address."""


class Dump(NamedTuple):
    """What the maps hold. Array entries that were never written may be left out."""

    vips: Mapping[bytes, int]
    frontends: Mapping[FrontendKey, Frontend]
    services: Mapping[int, Service]
    records: Mapping[int, Record]
    """at least those that ``services`` names"""
    slots: Sequence[int]
    backends: Mapping[int, Backend]
    node_ports: Sequence[int]
    source_ranges: Mapping[SourceRangeKey, SourceRange]


class Step(NamedTuple):
    """One write: ``action`` is "set" or "delete"; ``grace`` asks for a grace period after it."""

    map: str
    action: str
    key: Any
    value: Any
    grace: bool = False


@dataclass(slots=True)
class Plan:
    """Writes in the order of their fields. Each is idempotent."""

    token: int
    """Names what this plan frees, for ``Planner.release`` after the grace period."""
    backends: list[tuple[int, Backend]] = field(default_factory=list)
    slots: list[tuple[int, array[int]]] = field(default_factory=list)
    records: list[tuple[int, Record]] = field(default_factory=list)
    ranges_revoked: list[SourceRangeKey] = field(default_factory=list)
    """Left by an earlier owner of an index: nobody may come through them to the new one."""
    ranges_added: list[tuple[SourceRangeKey, SourceRange]] = field(default_factory=list)
    """Before any frontend that asks for them leads there."""
    services: dict[int, Service] = field(default_factory=dict)
    ports_set: dict[int, int] = field(default_factory=dict)
    """Word of the port bitmap to its new value."""
    frontends_added: list[tuple[FrontendKey, Frontend]] = field(default_factory=list)
    frontends_replaced: list[tuple[FrontendKey, Frontend]] = field(default_factory=list)
    """One at a time with a grace period after each: the kernel gives the replaced element to the
    next replacing update."""
    vips_added: list[tuple[bytes, int]] = field(default_factory=list)
    vips_replaced: list[tuple[bytes, int]] = field(default_factory=list)
    """Sorted by flags, with a grace period after all of the same flags: a reader that meets
    another's element finds there what its own says too."""
    vips_removed: list[bytes] = field(default_factory=list)
    frontends_removed: list[FrontendKey] = field(default_factory=list)
    ports_cleared: dict[int, int] = field(default_factory=dict)
    ranges_removed: list[SourceRangeKey] = field(default_factory=list)
    frees: bool = False
    """Something waits for a grace period after this plan: ``Planner.release(token)`` follows."""
    unfit: list[tuple[ServicePortId, str]] = field(default_factory=list)
    """All service ports without room as of this plan, and in which map; they keep what they had."""
    vips_unfit: list[bytes] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)
    """(service index, backend id) that belong together no longer: whose sockets to look at."""
    counts_cleared: list[int] = field(default_factory=list)
    """Service indexes with a new owner, whose counts begin anew; no program reads them."""

    @property
    def inserts(self) -> bool:
        """Whether a hash element is taken, which must not be one that a program may still hold."""
        return bool(
            self.frontends_added or self.frontends_replaced or self.vips_added or self.vips_replaced
        )

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return next(self.steps(), None) is None

    def steps(self) -> Iterator[Step]:
        """Every write, in order."""
        yield from (Step("backends", "set", *item) for item in self.backends)
        yield from (Step("slots", "set", *item) for item in self.slots)
        yield from (Step("records", "set", *item) for item in self.records)
        yield from (Step("source_ranges", "delete", key, None) for key in self.ranges_revoked)
        yield from (Step("source_ranges", "set", *item) for item in self.ranges_added)
        yield from (Step("services", "set", *item) for item in self.services.items())
        yield from (Step("node_ports", "set", *item) for item in self.ports_set.items())
        yield from (Step("frontends", "set", *item) for item in self.frontends_added)
        yield from (Step("frontends", "set", *item, True) for item in self.frontends_replaced)
        yield from (Step("vips", "set", *item) for item in self.vips_added)
        for group in self.vips_by_flags():
            yield from (Step("vips", "set", *item) for item in group[:-1])
            yield Step("vips", "set", *group[-1], True)
        yield from (Step("vips", "delete", key, None) for key in self.vips_removed)
        yield from (Step("frontends", "delete", key, None) for key in self.frontends_removed)
        yield from (Step("node_ports", "set", *item) for item in self.ports_cleared.items())
        yield from (Step("source_ranges", "delete", key, None) for key in self.ranges_removed)

    def vips_by_flags(self) -> Iterator[list[tuple[bytes, int]]]:
        """Groups of ``vips_replaced`` that one grace period is enough for."""
        for _, group in groupby(self.vips_replaced, key=itemgetter(1)):
            yield list(group)


class Failed(NamedTuple):
    """A write of a hash map that the kernel refused. Array writes are stores and cannot fail."""

    map: str
    action: str
    key: Any
    error: Exception
