# SPDX-License-Identifier: Apache-2.0
"""Who holds which id: a pool of small integers, and the table of backends with reference counts.

Id 0 means "none" everywhere and is never handed out. A pool knows nothing of quarantine: ids come
back to it only when no program can hold them any more. Called by the planner alone.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import Collection, Iterable

from kubeproxy_bpf.plan.records import Backend, BackendFlags

BackendKey = tuple[bytes, int, int, int]
"""Identity of a backend: address, port, protocol, and its LOCAL flag.

The flag is what the EndpointSlice of one Service says of a pod; it must not become true for another
Service that names the same address. HOST follows from the address, and changes in place."""

BackendRow = tuple[bytes, int, int, int, int]
"""The fields of ``Backend``."""

_GENERATION_MAX = 0xFFFFFFFF
# Plain numbers: arithmetic with members of an IntFlag costs a microsecond each.
_LIVE = int(BackendFlags.LIVE)
_LOCAL = int(BackendFlags.LOCAL)
_NOWHERE: BackendKey = (bytes(16), 0, 0, 0)


def next_generation(generation: int) -> int:
    """Count up in 32 bits, leaving out 0, which means "never used"."""
    return generation % _GENERATION_MAX + 1


class IdPool:
    """Ids from 1 to ``capacity - 1``.

    A dense pool reuses ids before it takes fresh ones. The other kind reuses as late as it can:
    sockets remember the record against which they were checked, so a record id must not come back
    while one of them may still compare it.
    """

    def __init__(self, capacity: int, dense: bool = True) -> None:
        self._capacity = capacity
        self._dense = dense
        self._next = 1
        self._fresh_end = capacity
        self._returned: deque[int] = deque()

    @property
    def used(self) -> int:
        """Ids that are out, those that rest included."""
        return self._next - 1 - len(self._returned)

    @property
    def last(self) -> int:
        """The last id that was ever out."""
        return self._next - 1

    def take(self) -> int | None:
        """Return an id, or None when all are out."""
        if self._returned and (self._dense or self._next >= self._fresh_end):
            return self._returned.popleft()
        if self._next >= self._fresh_end:
            return None
        self._next += 1
        return self._next - 1

    def give(self, ids: Iterable[int]) -> None:
        self._returned.extend(ids)

    def undo(self, number: int) -> None:
        """Take back an id that was handed out and never written."""
        self._returned.appendleft(number)

    def reserve(self, used: Collection[int]) -> list[int]:
        """Start from what a dump shows in use; hand out nothing before ``open``.

        Return the unused ids below the last one used, which the caller gives later.
        """
        taken = set(used)
        self._next = self._fresh_end = max(taken, default=0) + 1
        self._returned.clear()
        return [number for number in range(1, self._next) if number not in taken]

    def open(self) -> None:
        """The ids behind the last one used may be handed out."""
        self._fresh_end = self._capacity


class BackendTable:
    """Backend ids by address, with reference counts, flags and generations."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._pool = IdPool(capacity)
        self._keys: list[BackendKey | None] = [None]
        self._generations = array("I", [0])
        # Open to the planner, which looks up and counts 100,000 endpoints without a call for each.
        self.by_key: dict[BackendKey, int] = {}
        self.references = array("I", [0])
        self.flags = bytearray(1)

    @property
    def used(self) -> int:
        """Ids that are out, those that rest included."""
        return self._pool.used

    def add(self, key: BackendKey, flags: int) -> int | None:
        """Give an id to an address that has none; a new generation if the id had another's."""
        number = self._pool.take()
        if number is None:
            return None
        if number >= len(self._keys):
            self._grow(number)
        self._generations[number] = next_generation(self._generations[number])
        self.flags[number] = flags
        self._keys[number] = key
        self.by_key[key] = number
        return number

    @property
    def last(self) -> int:
        """The last id of which anything is known."""
        return len(self._keys) - 1

    def renew(self, number: int) -> int | None:
        """Give a second id to an address, which counts from now on; None without room."""
        key = self._keys[number]
        assert key is not None, "it has an address"
        return self.add(key, self.flags[number])

    def current(self, numbers: array[int]) -> array[int]:
        """The ids that count for the same addresses."""
        keys, by_key = self._keys, self.by_key
        return array("I", (by_key.get(keys[n] or _NOWHERE, n) for n in numbers))

    def undo(self, number: int) -> None:
        """Forget an id that was added and never written."""
        self._forget_key(number)
        self.flags[number] = 0
        self._pool.undo(number)

    def record(self, number: int) -> Backend:
        """What the map is to hold for this id."""
        return self.records((number,))[0][1]

    def records(self, numbers: Iterable[int]) -> list[tuple[int, Backend]]:
        """What the map is to hold for each of these ids."""
        keys, flags, generations = self._keys, self.flags, self._generations
        return [(n, Backend(*(keys[n] or _NOWHERE)[:3], flags[n], generations[n])) for n in numbers]

    def rows(self, numbers: Iterable[int]) -> list[tuple[int, BackendRow]]:
        """What the map holds for these ids, but for those that live and are not in use.

        Plain tuples: the audit asks for 100,000 of them, and looks at none if all is well.
        """
        keys, flags, generations = self._keys, self.flags, self._generations
        references, end = self.references, len(self._keys)
        return [
            (n, (*(keys[n] or _NOWHERE)[:3], flags[n], generations[n]))
            for n in numbers
            if n < end and (references[n] or not flags[n] & _LIVE)
        ]

    def in_use(self, number: int) -> bool:
        """Whether some service uses the id."""
        return number < len(self.references) and self.references[number] > 0

    def retire(self, number: int) -> tuple[int, ...]:
        """Make an unused id free for others; return it if its entry must lose the LIVE flag."""
        self._pool.give((number,))
        if number >= len(self.flags) or not self.flags[number] & _LIVE:
            return ()
        self._forget_key(number)
        self.flags[number] &= ~_LIVE
        return (number,)

    def restore(self, backends: Iterable[tuple[int, Backend]], used: Collection[int]) -> list[int]:
        """Take over what the map holds; return the ids that are not in use, up to the last known.

        Nothing is handed out before ``open``.
        """
        for number, backend in backends:
            if number >= len(self._keys):
                self._grow(number)
            address, port, protocol, flags, self._generations[number] = backend
            self.flags[number] = flags
            self._keys[number] = (address, port, protocol, flags & _LOCAL)
        last = len(self._keys) - 1
        self._grow(max(used, default=0))
        by_key, live = self.by_key, self.flags
        # Of two ids of one address the one in use counts.
        for numbers in (sorted(used), range(1, last + 1)):
            for number in numbers:
                key = self._keys[number]
                if key is not None and live[number] & _LIVE and key not in by_key:
                    by_key[key] = number
        rest = self._pool.reserve({*used, last} if last > 0 else used)
        if last > 0 and last not in used:
            rest.append(last)
        return rest

    def open(self) -> None:
        """The ids behind the last one known may be handed out."""
        self._pool.open()

    def _grow(self, number: int) -> None:
        missing = number + 1 - len(self._keys)
        if missing > 0:
            missing = max(missing, min(len(self._keys), self.capacity - len(self._keys)))
            self._keys.extend([None] * missing)
            self.references.extend([0] * missing)
            self.flags.extend(bytes(missing))
            self._generations.extend([0] * missing)

    def _forget_key(self, number: int) -> None:
        key = self._keys[number]
        if key is not None and self.by_key.get(key) == number:
            del self.by_key[key]
