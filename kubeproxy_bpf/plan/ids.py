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

BackendKey = tuple[bytes, int, int]
"""Identity of a backend: address, port, protocol."""

_GENERATION_MAX = 0xFFFFFFFF
_NOWHERE: BackendKey = (bytes(16), 0, 0)


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
        self._returned: deque[int] = deque()

    def take(self) -> int | None:
        """Return an id, or None when all are out."""
        if self._returned and (self._dense or self._next >= self._capacity):
            return self._returned.popleft()
        if self._next >= self._capacity:
            return None
        self._next += 1
        return self._next - 1

    def give(self, ids: Iterable[int]) -> None:
        self._returned.extend(ids)

    def undo(self, number: int) -> None:
        """Take back an id that was handed out and never written."""
        self._returned.appendleft(number)

    def reserve(self, used: Collection[int]) -> list[int]:
        """Start from what a dump shows in use. The rest is returned: the caller gives it later."""
        self._next = self._capacity
        self._returned.clear()
        taken = set(used)
        last = max(taken, default=0)
        order = range(1, self._capacity)
        if not self._dense:  # go on behind the newest ids, as if there had been no restart
            return [n for n in (*order[last:], *order[:last]) if n not in taken]
        return [n for n in order if n not in taken]


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

    def add(self, key: BackendKey, flags: int) -> int | None:
        """Give an id to an address that has none; a new generation if the id had another's."""
        number = self._pool.take()
        if number is None:
            return None
        self._grow(number)
        self._generations[number] = next_generation(self._generations[number])
        self.flags[number] = flags
        self._keys[number] = key
        self.by_key[key] = number
        return number

    def undo(self, number: int) -> None:
        """Forget an id that was added and never written."""
        self._forget_key(number)
        self.flags[number] = 0
        self._pool.undo(number)

    def record(self, number: int) -> Backend:
        """What the map is to hold for this id."""
        address, port, protocol = self._keys[number] or _NOWHERE
        return Backend(address, port, protocol, self.flags[number], self._generations[number])

    def in_use(self, number: int) -> bool:
        """Whether some service uses the id."""
        return number < len(self.references) and self.references[number] > 0

    def retire(self, number: int) -> tuple[int, ...]:
        """Make an unused id free for others; return it if its entry must lose the LIVE flag."""
        self._pool.give((number,))
        if number >= len(self.flags) or not self.flags[number] & BackendFlags.LIVE:
            return ()
        self._forget_key(number)
        self.flags[number] &= ~BackendFlags.LIVE
        return (number,)

    def restore(self, backends: Iterable[tuple[int, Backend]], used: Collection[int]) -> list[int]:
        """Take over what the map holds; return all ids that are not in use."""
        for number, backend in backends:
            self._grow(number)
            self._generations[number] = backend.generation
            self.flags[number] = backend.flags
            self._keys[number] = (backend.address, backend.port, backend.protocol)
        known = range(1, len(self._keys))
        for numbers in (sorted(used), known):  # of two ids of one address the one in use counts
            for number in numbers:
                key = self._keys[number] if number < len(self._keys) else None
                if key is not None and self.flags[number] & BackendFlags.LIVE:
                    self.by_key.setdefault(key, number)
        return self._pool.reserve(used)

    def _grow(self, number: int) -> None:
        missing = number + 1 - len(self._keys)
        if missing > 0:
            self._keys.extend([None] * missing)
            self.references.extend([0] * missing)
            self.flags.extend(bytes(missing))
            self._generations.extend([0] * missing)

    def _forget_key(self, number: int) -> None:
        key = self._keys[number]
        if key is not None and self.by_key.get(key) == number:
            del self.by_key[key]
