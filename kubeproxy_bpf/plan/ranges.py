# SPDX-License-Identifier: Apache-2.0
"""Mirror of the map ``source_ranges``: who may use the load-balancer addresses of a service.

The map only allows. A frontend that asks for ranges lets nobody in who is in none, so whatever is
missing here, be it for lack of room or refused by the kernel, shuts people out and never lets them
in. A range may therefore go late, but must not be there for the next owner of an index. Called by
the planner alone.
"""

from __future__ import annotations

from typing import Container, Iterable, Iterator, Mapping

from kubeproxy_bpf.model.types import Prefix
from kubeproxy_bpf.plan.records import SourceRange, SourceRangeKey
from kubeproxy_bpf.plan.writes import Plan

_ALLOW = SourceRange(1)
_SERVICE_BITS = 32


class RangeTable:
    """Ranges by service index. A plan calls ``put`` and ``drop`` as it goes, then ``flush``."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._held: dict[int, set[Prefix]] = {}
        self._count = 0
        """Entries of the map, also those that this plan removes at its end."""
        self._stale: list[SourceRangeKey] = []
        self._refused: set[SourceRangeKey] = set()

    def restore(self, entries: Mapping[SourceRangeKey, SourceRange]) -> None:
        """Start from what the map holds; what says anything but "allow" is written again."""
        for key, value in entries.items():
            self._held.setdefault(key.service, set()).add(_prefix(key))
            if value != _ALLOW:
                self._refused.add(key)
        self._count = len(entries)

    @property
    def used(self) -> int:
        """Entries of the map."""
        return self._count

    @property
    def unwritten(self) -> Container[SourceRangeKey]:
        """Keys whose last write was refused."""
        return self._refused

    def keys(self) -> Iterator[SourceRangeKey]:
        """All that is let in."""
        return (_key(service, each) for service, held in self._held.items() for each in held)

    def get(self, key: SourceRangeKey) -> SourceRange | None:
        """What stands, or should stand, under a key."""
        return _ALLOW if _prefix(key) in self._held.get(key.service, ()) else None

    @property
    def dirty(self) -> bool:
        """Whether there is something to write although nothing changed."""
        return bool(self._refused)

    def put(self, service: int, ranges: Iterable[Prefix], inherited: bool, plan: Plan) -> bool:
        """Let these sources in, and no others; False if there is no room for all new ones.

        Then none of the new ones is let in. ``inherited``: what is there was another owner's, for
        whose clients the new one is not meant.
        """
        wanted = set(ranges)
        held = self._held.get(service, set())
        if inherited and wanted:
            revoked = self._take(service, held - wanted)
            plan.ranges_revoked += revoked
            self._count -= len(revoked)
        else:
            self._stale += self._take(service, held - wanted)
        new = wanted - held
        if self._count + len(new) > self._max_entries:
            return False
        if new:
            self._held.setdefault(service, set()).update(new)
            self._count += len(new)
            plan.ranges_added += [(_key(service, prefix), _ALLOW) for prefix in sorted(new)]
        return True

    def drop(self, service: int) -> None:
        """No frontend leads to the index once the plan is executed."""
        self._stale += self._take(service, self._held.get(service, set()))

    def drop_unowned(self, owned: Container[int]) -> None:
        """Drop the ranges of every index without owner."""
        for service in [service for service in self._held if service not in owned]:
            self.drop(service)

    def flush(self, plan: Plan) -> bool:
        """Remove what is stale, repeat what was refused; tell whether room was made."""
        made_room = bool(self._stale or plan.ranges_revoked)
        plan.ranges_removed += self._stale
        self._count -= len(self._stale)
        written = (key for key, _ in plan.ranges_added)
        self._refused.difference_update(self._stale, plan.ranges_revoked, written)
        self._stale = []
        for key in sorted(self._refused):
            if _prefix(key) in self._held.get(key.service, ()):
                plan.ranges_added.append((key, _ALLOW))
            else:
                plan.ranges_removed.append(key)
        self._refused.clear()
        return made_room

    def refused(self, key: SourceRangeKey) -> None:
        """The kernel refused a write of this key: the next plan repeats it."""
        self._refused.add(key)

    def _take(self, service: int, prefixes: set[Prefix]) -> list[SourceRangeKey]:
        if not prefixes:
            return []
        keys = [_key(service, prefix) for prefix in sorted(prefixes)]
        self._held[service] -= prefixes
        if not self._held[service]:
            del self._held[service]
        return keys


def _key(service: int, prefix: Prefix) -> SourceRangeKey:
    return SourceRangeKey(_SERVICE_BITS + prefix.bits, service, prefix.address)


def _prefix(key: SourceRangeKey) -> Prefix:
    return Prefix(key.source, key.prefix_bits - _SERVICE_BITS)
