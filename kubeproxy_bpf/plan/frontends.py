# SPDX-License-Identifier: Apache-2.0
"""Mirrors of the hash map ``frontends`` and of the port bitmap.

A mirror holds what the map will hold once all plans are executed, and turns a wanted change into
the right kind of write: an entry that is new is added, one that another service or other flags take
over is replaced, never changed in place. Writes that the kernel refused are repeated by the next
plan. It decides nothing about services; the planner does.
"""

from __future__ import annotations

from array import array
from typing import Container, Iterable, Mapping, Sequence

from kubeproxy_bpf.plan.records import Frontend, FrontendKey, FrontendKind
from kubeproxy_bpf.plan.writes import PORT_WORDS, Plan

_SCREENED = frozenset((FrontendKind.NODE_PORT, FrontendKind.HOST_PORT))


class FrontendTable:
    """Frontends by key. A plan calls ``drop`` for all keys given up, then ``put``, then ``flush``.

    Keys are dropped first so that another service port may take one over within the same plan.
    """

    def __init__(self, max_entries: int) -> None:
        self.entries: dict[FrontendKey, Frontend] = {}
        self._max_entries = max_entries
        self._dropped: dict[FrontendKey, int] = {}
        self._refused: set[FrontendKey] = set()
        self._absent: set[FrontendKey] = set()
        """Removed by somebody else."""
        self.ports = PortBitmap()

    def restore(self, entries: Mapping[FrontendKey, Frontend], node_ports: Sequence[int]) -> None:
        """Start from what the maps hold."""
        self.entries = dict(entries)
        ports = (key.port for key, entry in entries.items() if entry.kind in _SCREENED)
        self.ports.restore(ports, node_ports)

    @property
    def dirty(self) -> bool:
        """Whether there is something to write although nothing changed."""
        return bool(self._refused or self._absent or self.ports.doubtful)

    @property
    def unwritten(self) -> Container[FrontendKey]:
        """Keys whose last write was refused."""
        return self._refused

    def fits(self, keys: Iterable[FrontendKey]) -> bool:
        """Whether those of the keys that are new find room beside all that is still there."""
        new = sum(key not in self.entries for key in keys)
        return not new or len(self.entries) + new <= self._max_entries

    def drop(self, key: FrontendKey, service: int) -> None:
        """The service gives up the key; it goes unless someone takes it over in this plan."""
        if (entry := self.entries.get(key)) is not None and entry.service == service:
            self._dropped[key] = service

    def drop_unowned(self, owned: Container[int]) -> None:
        """Drop every key that leads to a service without owner."""
        for key, entry in self.entries.items():
            if entry.service not in owned:
                self._dropped[key] = entry.service

    def put(self, key: FrontendKey, value: Frontend, owned: Container[int], plan: Plan) -> bool:
        """Let the key lead to a service; False if it belongs to one that does not give it up.

        ``owned`` holds the services that have an owner; the keys of others are for anyone to take.
        """
        old = self.entries.get(key)
        if old is None:
            if len(self.entries) >= self._max_entries:
                return False
        elif old.service != value.service and old.service in owned and key not in self._dropped:
            return False
        self._dropped.pop(key, None)
        if old == value:
            return True
        self.entries[key] = value
        if value.kind in _SCREENED:
            self.ports.count(key.port, plan)
        if old is not None and old.kind in _SCREENED:
            self.ports.uncount(key.port)
        if old is None and key not in self._refused:
            plan.frontends_added.append((key, value))
        else:
            self._refused.discard(key)
            self._absent.discard(key)
            plan.frontends_replaced.append((key, value))
        return True

    def flush(self, plan: Plan) -> bool:
        """Remove what was dropped, repeat what was refused; tell whether room was made."""
        for key in self._dropped:
            old = self.entries.pop(key)
            plan.frontends_removed.append(key)
            self._refused.discard(key)
            self._absent.discard(key)
            if old.kind in _SCREENED:
                self.ports.uncount(key.port)
        for key in sorted(self._refused):
            value = self.entries.get(key)
            if value is None:
                plan.frontends_removed.append(key)
            else:
                plan.frontends_replaced.append((key, value))
        absent = ((key, self.entries[key]) for key in sorted(self._absent))
        plan.frontends_added += absent
        self._absent.clear()
        made_room = bool(self._dropped)
        self._dropped.clear()
        self._refused.clear()
        self.ports.flush(plan)
        return made_room

    def refused(self, key: FrontendKey) -> None:
        """The kernel refused a write of this key: the next plan repeats it."""
        self._refused.add(key)

    def doubt(self, key: FrontendKey, absent: bool) -> None:
        """Somebody else wrote this key, or removed it: the next plan repairs it."""
        if absent and key in self.entries and key not in self._refused:
            self._absent.add(key)
        else:
            self._refused.add(key)


class PortBitmap:
    """Ports of node and host ports, counted over protocols, families and kinds."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._words = array("Q", bytes(8 * PORT_WORDS))
        self._uncounted: list[int] = []
        self.doubtful: set[int] = set()

    def restore(self, ports: Iterable[int], words: Sequence[int]) -> None:
        """Start from the map; words that say something else than the frontends are repaired."""
        for port in ports:
            self._counts[port] = self._counts.get(port, 0) + 1
        expected = self._expected()
        for number, word in enumerate(words):
            if word != expected[number]:
                self.doubtful.add(number)
            self._words[number] = word

    @property
    def words(self) -> Sequence[int]:
        """What the map holds."""
        return self._words

    def doubt(self, number: int, word: int) -> None:
        """The map holds another word, which somebody else wrote: the next plan repairs it."""
        self._words[number] = word
        self.doubtful.add(number)

    def count(self, port: int, plan: Plan) -> None:
        """One more frontend; its bit is set before the frontend."""
        self._counts[port] = self._counts.get(port, 0) + 1
        bit = 1 << (port & 63)
        if not self._words[port >> 6] & bit:
            self._words[port >> 6] |= bit
            plan.ports_set[port >> 6] = self._words[port >> 6]

    def uncount(self, port: int) -> None:
        """One frontend less; its bit is cleared after the removal."""
        self._uncounted.append(port)

    def flush(self, plan: Plan) -> None:
        """Clear the bits that nothing needs any more, and repair what the restart found."""
        if self.doubtful:
            self._repair(plan)
        for port in self._uncounted:
            self._counts[port] -= 1
            if not self._counts[port]:
                del self._counts[port]
                self._words[port >> 6] &= ~(1 << (port & 63))
                plan.ports_cleared[port >> 6] = self._words[port >> 6]
        self._uncounted.clear()

    def _repair(self, plan: Plan) -> None:
        expected = self._expected()
        for number in self.doubtful:
            both = self._words[number] | expected[number]
            if both != self._words[number]:
                plan.ports_set[number] = both
            if both != expected[number]:
                plan.ports_cleared[number] = expected[number]
            self._words[number] = expected[number]
        self.doubtful.clear()

    def _expected(self) -> array[int]:
        words = array("Q", bytes(8 * PORT_WORDS))
        for port in self._counts:
            words[port >> 6] |= 1 << (port & 63)
        return words
