# SPDX-License-Identifier: Apache-2.0
"""Faults that tests ask the embedded API server to show; none unless asked.

A fault names what goes wrong (``kind``), for which requests, and how often. ``front``, ``sending``
and ``watching`` take it when they come to the place where it bites. Faults that concern the
whole server (refused connections, renumbered objects, another token) are methods of ``ApiServer``.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Callable, Literal, Mapping

import msgspec

from .status import StatusError

Kind = Literal[
    "status",  # answer with ``code`` (403, 429, 500, ...)
    "gone",  # 410: as an answer to a list, as an ERROR event in a watch
    "cut",  # end a watch in the middle of a line, after ``after`` whole ones
    "stall",  # a watch stays open and silent until the fault is cleared
    "truncate",  # send the first half of a body
    "slow",  # send a body in pieces of ``chunk_bytes``, ``delay_s`` apart
    "delay",  # begin to answer only after ``delay_s``
    "duplicate",  # send each event twice
    "reorder",  # send two events in the wrong order
    "shrink",  # a list, or initial events, of the first ``keep`` objects, said to be whole
    "stale",  # lists and new watches come from a replica that stopped when the fault was added
]


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """One thing that goes wrong; the fields after ``times`` belong to single kinds."""

    kind: Kind
    resource: str = "*"
    verbs: list[str] = []
    """get, list, watch, create, update, patch, delete, deletecollection; empty means all."""
    times: int | None = 1
    """How often it bites; None until it is cleared."""
    code: int = 500
    message: str = "a fault was asked for"
    retry_after_s: int | None = None
    after: int = 0
    framed: bool = False
    """truncate: end the short body properly, so that only its JSON is broken."""
    chunk_bytes: int = 1024
    delay_s: float = 0.05
    keep: int = 0
    version: int = 0
    """stale: where the replica stopped; filled in when it is 0."""
    id: int = 0

    def concerns(self, resource: str, verb: str) -> bool:
        return self.resource in ("*", resource) and (not self.verbs or verb in self.verbs)

    def error(self) -> StatusError:
        details = {"retryAfterSeconds": self.retry_after_s} if self.retry_after_s else {}
        return StatusError(self.code, self.message, details=details)


class Faults:
    """The faults in force."""

    def __init__(
        self, on_change: Callable[[], None] = lambda: None, version: Callable[[], int] = lambda: 0
    ) -> None:
        self.active: list[Fault] = []
        self.clearings = 0
        """A watch that began in the past stays there until this grows."""
        self._on_change = on_change
        self._version = version
        self._ids = itertools.count(1)
        self._changed = asyncio.Event()

    def add(self, fault: Fault) -> Fault:
        fault.id = next(self._ids)
        fault.version = fault.version or self._version()
        self.active.append(fault)
        self._notify()
        return fault

    def add_fields(self, fields: Mapping[str, object]) -> Fault:
        return self.add(msgspec.convert(fields, Fault))

    def clear(self, fault_id: int | None = None) -> None:
        """Remove one fault, or all."""
        self.clearings += 1
        self.active = [f for f in self.active if fault_id is not None and f.id != fault_id]
        self._notify()

    def take(self, kind: Kind, resource: str, verb: str) -> Fault | None:
        """The first fault of a kind that bites here; counts as one bite."""
        for fault in self.active:
            if fault.kind == kind and fault.concerns(resource, verb):
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self.active.remove(fault)
                return fault
        return None

    def pending(self, kind: Kind, resource: str, verb: str) -> bool:
        """Whether a fault of a kind waits for such a request; does not count as a bite."""
        return any(f.kind == kind and f.concerns(resource, verb) for f in self.active)

    async def changed(self) -> None:
        """Wait until faults are added or cleared."""
        await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_change()
