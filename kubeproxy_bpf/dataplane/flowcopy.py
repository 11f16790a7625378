# SPDX-License-Identifier: Apache-2.0
"""Copies the table of flows, whose entries come in pairs and stand in a queue.

Half of a pair is worse than none: whoever followed it would wait for answers that nobody
translates. And programs look for room by the queue alone, so a table with flows that the queue
does not know would be full for new ones. Called by ``migrate``.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple

from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.dataplane.flows import FlowTable, now_ticks
from kubeproxy_bpf.dataplane.layout import TypeInfo
from kubeproxy_bpf.dataplane.statecopy import Entry, Form, StateCopy, check_full
from kubeproxy_bpf.libbpf import BpfMap, LibbpfError, UpdateFlag

_ROOM_FOR_NEW = 8
"""One part in so many is left free: making room one by one is slower."""
_NO_KEY = b""


class QueuePlace(NamedTuple):
    """``struct track_place``: a flow in the queue."""

    key: bytes
    due: int
    turn: int


class FlowQueue:
    """``kpb_flow_queue``: the flows in the order in which they are judged."""

    def __init__(self, queue: BpfMap, btf: TypeInfo) -> None:
        self._queue = queue
        self._places = layout.bind(btf, "track_place", QueuePlace)

    def line_up(self, key: bytes, turn: int) -> None:
        """As the last one, to be judged as soon as it is first: then it gets a time of its own."""
        place = QueuePlace(key, now_ticks(), turn)
        self._queue.update(_NO_KEY, self._places.encode(place), UpdateFlag.EXIST)


class FlowCopy(StateCopy):
    """Of ``kpb_flows``; ``queue`` is None where the one of before is shared."""

    def __init__(
        self, old: BpfMap, new: BpfMap, form: Form, btf: TypeInfo, queue: BpfMap | None
    ) -> None:
        super().__init__(old, new, form)
        self._table = FlowTable(new, btf)
        self._queue = FlowQueue(queue, btf) if queue is not None else None

    def first(self) -> int:
        """Copy what there is, and line it up; tell how many. Nobody may use the new table yet."""
        count = super().first()
        if count < len(self.seen):
            count += self._make_whole()
        if self._queue is not None:
            for batch in self._table.batches():
                for entry in self._table.entries(batch):
                    self._line_up(*entry)
        return count

    def room(self) -> int:
        return self.new.max_entries - self.new.max_entries // _ROOM_FOR_NEW

    def groups(self, missing: dict[bytes, bytes]) -> Iterator[list[Entry]]:
        """A flow that began while the table was read was read by half, or not at all."""
        while missing:
            key, value = missing.popitem()
            partner = self._table.partner_key(key, value)
            group = [(key, value)]
            if partner is not None and not self._has_partner(key, value):
                # Where it was seen, it had no room, or was taken away as half of a pair.
                other = missing.pop(partner, None) or self._old_value(partner)
                if other is None or self._table.turn(other) != self._table.turn(value):
                    continue
                group.append((partner, other))
            for entry in group:
                self._remove_earlier(entry[0])
            yield group

    def digest(self, key: bytes, value: bytes) -> int:
        """A client that has few ports makes one flow after the other with the same key."""
        return hash((key, self._table.turn(value)))

    def _has_partner(self, key: bytes, value: bytes) -> bool:
        """Whether the new table has the partner of an entry, of the same life."""
        partner = self._table.partner_key(key, value)
        there = self.new.lookup(partner) if partner is not None else None
        if partner is None or there is None:
            return False
        same_life = self._table.turn(there) == self._table.turn(value)
        return same_life and self._table.partner_key(partner, there) == key

    def _remove_earlier(self, key: bytes) -> None:
        """What was copied under this key, and is over; what the programs made there stays."""
        there = self.new.lookup(key)
        if there is None or self.digest(key, there) not in self.seen:
            return
        partner = self._table.partner_key(key, there)
        if partner is not None and self._has_partner(key, there):
            self.new.delete(partner)
        self.new.delete(key)

    def _old_value(self, key: bytes) -> bytes | None:
        raw = self.old.lookup(key) if self.form.keys.same else None
        return self.form.values.apply(raw, 1) if raw is not None else None

    def put(self, key: bytes, value: bytes) -> None:
        super().put(key, value)
        self._line_up(key, value)

    def _line_up(self, key: bytes, value: bytes) -> None:
        """One of a pair stands for both."""
        if self._queue is None:
            return
        partner = self._table.partner_key(key, value)
        if partner is None or key < partner:
            self._queue.line_up(key, self._table.turn(value))

    def _make_whole(self) -> int:
        """Where not all had room: every second half gives way to the partner of another; tell by
        how many entries that are more. Those whose partner came while the table was read come
        back with it."""
        halves = list(self._halves())
        kept = len(halves) // 2
        removed = self.new.delete_batch(b"".join(halves[kept:]), len(halves) - kept)
        alone = [key for key in halves[:kept] if not self._fetch_partner(key)]
        removed += self.new.delete_batch(b"".join(alone), len(alone))
        return kept - len(alone) - removed

    def _fetch_partner(self, key: bytes) -> bool:
        """Copy the partner of an entry, of the same life, if there is one."""
        value = self.new.lookup(key)
        partner = self._table.partner_key(key, value) if value is not None else None
        other = self._old_value(partner) if partner is not None else None
        if value is None or partner is None or other is None:
            return False
        if self._table.turn(other) != self._table.turn(value):
            return False
        try:
            self.new.update(partner, other, UpdateFlag.NOEXIST)
        except LibbpfError as error:
            check_full(error)
            return False
        return True

    def _halves(self) -> Iterator[bytes]:
        for batch in self._table.batches():
            for key, value in self._table.entries(batch):
                partner = self._table.partner_key(key, value)
                if partner is not None and self.new.lookup(partner) is None:
                    yield key
