# SPDX-License-Identifier: Apache-2.0
"""What the maps hold, asked for in parts: the promise that ``audit`` reads by.

``dataplane.readback`` keeps it for real maps, ``HeldDump`` for a dump in memory. Nothing here
writes.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Iterable, Iterator, Mapping, Protocol, Sequence

from kubeproxy_bpf.plan.records import Backend, Record, Service
from kubeproxy_bpf.plan.writes import Dump

Entry = tuple[Any, Any]
"""A key, and what stands or should stand there."""


class Held(Protocol):
    """The maps by the names of ``Dump``."""

    def differing(self, name: str, expected: Sequence[Entry]) -> list[Entry]:
        """Of these entries of an array those that hold something else, with what they hold.

        An entry of ``slots`` is the first position of a run, and the ids in it.
        """

    def entries(self, name: str) -> Iterator[Sequence[Entry]]:
        """All entries of a hash map, a bounded part at a time.

        The caller may pause between two parts: what stands there all the time appears once.
        """

    def lookup(self, name: str, keys: Iterable[Any]) -> dict[Any, Any]:
        """Those of the keys that a hash map has, with their values."""


_PART = 1024
_RECORDS: dict[str, Any] = {"services": Service, "records": Record, "backends": Backend}


class HeldDump:
    """A dump, read like maps."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump

    def differing(self, name: str, expected: Sequence[Entry]) -> list[Entry]:
        held = ((key, self._held(name, key, value)) for key, value in expected)
        return [new for new, (_, value) in zip(held, expected, strict=True) if new[1] != value]

    def entries(self, name: str) -> Iterator[Sequence[Entry]]:
        table: Mapping[Any, Any] = getattr(self._dump, name)
        left = iter(list(table))
        while keys := list(islice(left, _PART)):
            yield [(key, table[key]) for key in keys if key in table]

    def lookup(self, name: str, keys: Iterable[Any]) -> dict[Any, Any]:
        table: Mapping[Any, Any] = getattr(self._dump, name)
        return {key: table[key] for key in keys if key in table}

    def _held(self, name: str, key: int, value: Any) -> Any:
        if name == "slots":
            return self._dump.slots[key : key + len(value)]
        if name == "node_ports":
            return self._dump.node_ports[key]
        held = getattr(self._dump, name).get(key)
        # What was never written is zeros, of the same record.
        zeros = (bytes(len(v)) if isinstance(v, bytes) else 0 for v in value)
        return held if held is not None else _RECORDS[name]._make(zeros)
