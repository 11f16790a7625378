# SPDX-License-Identifier: Apache-2.0
"""Hands out runs of slots and takes them back: a free list by size class that coalesces.

A free run is known by both its ends, so a returned run melts with its neighbours in constant time.
Runs of like size share a class (exact below 16, then eight classes per power of two), and a bit set
of the classes that are not empty finds the smallest that fits. It moves nothing: a run that is
handed out stays where it is. It knows nothing of quarantine; the planner gives back what is free.
"""

from __future__ import annotations

from typing import Iterable

_EXACT_BITS = 4
_STEP_BITS = 3


def _class_of(length: int) -> int:
    bits = length.bit_length()
    if bits <= _EXACT_BITS:
        return length
    return ((bits - _EXACT_BITS) << _STEP_BITS) + (length >> (bits - _STEP_BITS - 1))


class Extents:
    """Free runs within ``first .. first + length``."""

    def __init__(self, first: int, length: int) -> None:
        self._by_start: dict[int, int] = {}
        self._by_end: dict[int, int] = {}
        self._classes: dict[int, dict[int, None]] = {}
        self._classes_used = 0
        self.free = 0
        if length > 0:
            self.give(first, length)

    def take(self, length: int) -> int | None:
        """Return the start of a run of exactly this length, or None when no run is long enough."""
        start = self._find(length)
        if start is None:
            return None
        have = self._by_start[start]
        self._forget(start, have)
        if have > length:
            self._remember(start + length, have - length)
        self.free -= length
        return start

    def give(self, start: int, length: int) -> None:
        """Take back a run; any part of what was handed out may come back on its own."""
        self.free += length
        before = self._by_end.get(start)
        if before is not None:
            before_length = start - before
            self._forget(before, before_length)
            start, length = before, length + before_length
        after_length = self._by_start.get(start + length)
        if after_length is not None:
            self._forget(start + length, after_length)
            length += after_length
        self._remember(start, length)

    def runs(self) -> Iterable[tuple[int, int]]:
        """Free runs as (start, length), in no order."""
        return self._by_start.items()

    def _find(self, length: int) -> int | None:
        own = _class_of(length)
        larger = self._classes_used >> (own + 1) << (own + 1)
        # A run of the own class is the closest fit, but only the exact classes promise one.
        for start in self._classes.get(own, ()):
            if self._by_start[start] >= length:
                return start
            if larger:
                break
        if not larger:
            return None
        return next(iter(self._classes[(larger & -larger).bit_length() - 1]))

    def _remember(self, start: int, length: int) -> None:
        self._by_start[start] = length
        self._by_end[start + length] = start
        of = _class_of(length)
        self._classes.setdefault(of, {})[start] = None
        self._classes_used |= 1 << of

    def _forget(self, start: int, length: int) -> None:
        del self._by_start[start]
        del self._by_end[start + length]
        of = _class_of(length)
        members = self._classes[of]
        del members[start]
        if not members:
            del self._classes[of]
            self._classes_used &= ~(1 << of)
