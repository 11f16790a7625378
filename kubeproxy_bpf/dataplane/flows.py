# SPDX-License-Identifier: Apache-2.0
"""The flow table as user space sees it: batches of raw entries, what in them is dead, and its end.

The programs make, follow and remove flows without anybody's help; this only helps them. Offsets
come from the object's BTF, and entries stay bytes, as a full table has half a million of them.
Called by ``sweep`` and ``flowcopy``, and by tests.
"""

from __future__ import annotations

import sys
import time
from typing import Collection, Iterator, NamedTuple

from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.dataplane.layout import TypeInfo
from kubeproxy_bpf.dataplane.tracking import TICK_NS
from kubeproxy_bpf.libbpf import BpfMap
from kubeproxy_bpf.libbpf.btf import Struct

_TICKS = 1 << 32
_MARGIN_TICKS = 8
"""The programs read a coarser clock; what died this very second is left to them."""


class Tuple(NamedTuple):
    """``struct tuple``, the key of a flow: a packet as it arrives."""

    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    protocol: int


class Flow(NamedTuple):
    """``struct flow``: what becomes of such a packet."""

    check: int
    deadline: int
    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    ifindex: int
    backend: int
    service: int
    record: int
    flags: int
    state: int
    turn: int = 0


class Batch(NamedTuple):
    """Entries of the table as they lie in memory, one after the other."""

    keys: bytes
    values: bytes
    length: int


_BATCH = 4096


def now_ticks() -> int:
    """The time by which deadlines are judged, in 32 bits as the programs have it."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // TICK_NS % _TICKS


class FlowTable:
    """Reads kpb_flows, and removes what is dead."""

    def __init__(self, source: BpfMap, btf: TypeInfo) -> None:
        self.keys = layout.bind(btf, "tuple", Tuple)
        self.flows = layout.bind(btf, "flow", Flow)
        self._map = source
        self._destination = _slice_of(btf.structs["tuple"], "destination")
        deadline = _slice_of(btf.structs["flow"], "deadline")
        self._deadlines = slice(deadline.start // 4, None, self.flows.size // 4)
        self._ends = [
            _slice_of(btf.structs["flow"], name)
            for name in ("destination", "source", "destination_port", "source_port")
        ]
        self._protocol = slice(_slice_of(btf.structs["tuple"], "protocol").start, self.keys.size)
        self._turn_at: int = _slice_of(btf.structs["flow"], "turn").start
        # Of the flags only the byte that has this one, wherever the processor puts it.
        alone = btf.enums["track_flags"].values["TRACK_ALONE"].to_bytes(2, sys.byteorder)
        self._alone = max(alone)
        self._flags_at = _slice_of(btf.structs["flow"], "flags").start + alone.index(self._alone)

    @property
    def capacity(self) -> int:
        """Entries that have room."""
        return self._map.max_entries

    def batches(self, size: int = _BATCH) -> Iterator[Batch]:
        """All entries, in steps of about so many; see ``BpfMap.batches``."""
        for keys, values, count in self._map.batches(size):
            yield Batch(keys, values, count)

    def entries(self, batch: Batch) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of a batch."""
        for position in range(batch.length):
            yield (
                _element(batch.keys, position, self.keys.size),
                _element(batch.values, position, self.flows.size),
            )

    def past(self, batch: Batch, now: int) -> list[bytes]:
        """The keys of entries whose deadline has passed; a partner may still keep them alive."""
        words = memoryview(batch.values).cast("I")
        limit = now - _MARGIN_TICKS
        size = self.keys.size
        return [
            batch.keys[position * size : position * size + size]
            for position, deadline in enumerate(words[self._deadlines].tolist()[: batch.length])
            if 0 < (limit - deadline) % _TICKS < _TICKS // 2
        ]

    def destinations(self, batch: Batch, wanted: Collection[bytes]) -> set[bytes]:
        """Those of the wanted addresses that some flow of the batch leads to."""
        start, stop, size = self._destination.start, self._destination.stop, self.keys.size
        ends = range(0, batch.length * size, size)
        return {batch.keys[at + start : at + stop] for at in ends}.intersection(wanted)

    def remove_if_dead(self, key: bytes, now: int) -> int:
        """Remove an entry together with its partner unless one of them lives; tell how many went.

        Both are read anew: since the batch was read a packet may have come. Between this and the
        removal lie microseconds, in which the programs would have to make the very same flow anew.
        """
        raw = self._map.lookup(key)
        if raw is None or not self._is_past(raw, now):
            return 0
        partner = self.partner_key(key, raw)
        if partner is not None:
            other = self._map.lookup(partner)
            if other is not None and not self._is_past(other, now):
                return 0
        removed = [self._map.delete(which) for which in (key, partner) if which is not None]
        return sum(removed)

    def _is_past(self, raw: bytes, now: int) -> bool:
        deadline = memoryview(raw).cast("I")[self._deadlines.start]
        return 0 < (now - _MARGIN_TICKS - deadline) % _TICKS < _TICKS // 2

    def partner_key(self, key: bytes, raw: bytes) -> bytes | None:
        """What the entry makes of a packet, with the ends exchanged; None if it stands alone."""
        if raw[self._flags_at] & self._alone:
            return None
        return b"".join([*(raw[part] for part in self._ends), key[self._protocol]])

    def turn(self, raw: bytes) -> int:
        """Which life of the flow a value belongs to."""
        return raw[self._turn_at]


def _element(raw: bytes, position: int, size: int) -> bytes:
    return raw[position * size : (position + 1) * size]


def _slice_of(struct: Struct, name: str) -> slice:
    (member,) = (member for member in struct.members if member.name == name)
    return slice(member.offset, member.offset + member.size)
