# SPDX-License-Identifier: Apache-2.0
"""The flow table that takes the place of another: pairs stay whole, and programs find room in it.

That the programs judge by the queue what was copied is in ``tests/bpf/packet/test_limits.py``.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack
from typing import Callable, Iterator

import pytest

from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.dataplane.convert import Conversion, Move
from kubeproxy_bpf.dataplane.flowcopy import FlowCopy, QueuePlace
from kubeproxy_bpf.dataplane.statecopy import Form
from kubeproxy_bpf.libbpf import BpfMap, Btf, MapType
from kubeproxy_bpf.libbpf.errors import BatchError

from ..queues import pop_all
from .conftest import ROOM, Flows

pytestmark = pytest.mark.root

FULL = ROOM - ROOM // 8


class Tables:
    """The old table and its queue, and what is to take their place."""

    def __init__(self, flows: Flows, btf: Btf, old: BpfMap, queue: BpfMap) -> None:
        self.flows = flows
        self.old = old
        self.queue = queue
        sizes = old.key_size, old.value_size
        form = Form(*(Conversion(size, size, [Move(0, 0, size)]) for size in sizes))
        self.copy = FlowCopy(old, flows.map, form, btf, queue)
        self._places = layout.bind(btf, "track_place", QueuePlace)

    def put(self, port: int) -> tuple[bytes, bytes]:
        """A pair of the old table."""
        pair = self.flows.put(port, 1000, 1000)
        self.move(*pair)
        return pair.forward, pair.reply

    def move(self, *keys: bytes) -> None:
        """Entries of the new table go to the old one."""
        for key in keys:
            self.old.update(key, self.flows.map.lookup(key) or b"")
            self.flows.map.delete(key)

    def waiting(self) -> list[QueuePlace]:
        """Who stands in the queue; it is empty then."""
        return [self._places.decode(raw) for raw in pop_all(self.queue)]


@pytest.fixture
def tables(flows: Flows, packet_btf: Btf) -> Iterator[Tables]:
    keys, values = flows.map.key_size, flows.map.value_size
    size = packet_btf.structs["track_place"].size
    with ExitStack() as stack:
        enter: Callable[[BpfMap], BpfMap] = stack.enter_context
        old = enter(BpfMap.create(MapType.HASH, "kpbt_old", keys, values, 4 * ROOM))
        queue = enter(BpfMap.create(MapType.QUEUE, "kpbt_queue", 0, size, ROOM))
        yield Tables(flows, packet_btf, old, queue)


def test_none_is_copied_by_half(tables: Tables) -> None:
    """Of a table that is too large as many whole pairs are copied as have room, beside some that is
    left for new ones."""
    for port in range(1024, 1024 + ROOM):
        tables.put(port)

    count = tables.copy.first()

    held = dict(tables.flows.map.items())
    assert FULL - 2 < len(held) == count <= FULL
    assert all(tables.flows.table.partner_key(*entry) in held for entry in held.items())


def test_what_had_no_room_is_not_missing(tables: Tables) -> None:
    """Nor is the half of it that was copied and taken away again."""
    for port in range(1024, 1024 + ROOM):
        tables.put(port)
    tables.copy.first()
    held = set(tables.flows.map.keys())

    assert tables.copy.missing() == 0

    assert set(tables.flows.map.keys()) == held


@pytest.mark.parametrize("others", [0, ROOM], ids=["all-fits", "too-large"])
def test_a_flow_that_began_meanwhile_comes_whole(tables: Tables, others: int) -> None:
    """The first copy saw one of its entries, since it read the other's place before."""
    for port in range(1024, 1024 + others):
        tables.put(port)
    pairs = [tables.put(port) for port in range(50000, 50000 + 64)]
    late = [(pair[0], tables.old.lookup(pair[0]) or b"") for pair in pairs]
    for key, _ in late:
        tables.old.delete(key)
    tables.copy.first()
    halves = [key for _, key in pairs if key in tables.flows]
    assert len(halves) == (0 if others else len(pairs)), "halves are removed where not all fit"
    for entry in late:
        tables.old.update(*entry)

    tables.copy.missing()

    assert all(key in tables.flows for pair in pairs for key in pair)
    assert len(tables.waiting()) == tables.flows.count // 2


def test_without_its_partner_nothing_comes_later(tables: Tables) -> None:
    """The programs of now have made something else of the partner's key, or it is over."""
    tables.copy.first()
    forward, reply = tables.put(50000)
    tables.old.delete(forward)
    assert tables.copy.missing() == 0
    assert reply not in tables.flows


def test_what_the_programs_made_anew_wins(tables: Tables) -> None:
    """Of a flow that was begun a second time only the second life counts, in both directions."""
    tables.copy.first()
    pair = tables.put(50000)
    tables.flows.map.update(pair[0], bytes(tables.flows.map.value_size))
    assert tables.copy.missing() == 0
    assert list(tables.flows.map.items()) == [(pair[0], bytes(tables.flows.map.value_size))]


def test_where_memory_runs_out_what_was_copied_is_whole_and_in_line(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table takes memory as it fills: without any it is as if it were full."""
    for port in range(1024, 1024 + ROOM):
        tables.put(port)
    put, batches = BpfMap.update_batch, iter(range(1))

    def until_memory_is_gone(self: BpfMap, keys: bytes, values: bytes, count: int) -> int:
        if next(batches, None) is not None:
            return put(self, keys, values, count)
        raise BatchError(errno.ENOMEM, "bpf_map_update_batch", self.name, 0)

    monkeypatch.setattr(BpfMap, "update_batch", until_memory_is_gone)

    count = tables.copy.first()

    held = dict(tables.flows.map.items())
    assert 0 < len(held) == count
    assert all(tables.flows.table.partner_key(*entry) in held for entry in held.items())
    assert len(tables.waiting()) == count // 2


def test_a_flow_that_was_made_anew_takes_the_place_of_its_copy(tables: Tables) -> None:
    """A client with few ports: the earlier life was copied, the connection of now came after it."""
    table = tables.flows.table
    forward, reply = tables.put(50000)
    tables.copy.first()
    began = table.flows.decode(tables.old.lookup(forward) or b"")
    answer = table.flows.decode(tables.old.lookup(reply) or b"")
    other_reply = table.keys.encode(table.keys.decode(reply)._replace(destination_port=4999))
    tables.old.delete(reply)
    now = {
        forward: table.flows.encode(began._replace(source_port=4999, turn=77)),
        other_reply: table.flows.encode(answer._replace(turn=77)),
    }
    for entry in now.items():
        tables.old.update(*entry)

    tables.copy.missing()

    assert dict(tables.flows.map.items()) == now
    assert {place.turn for place in tables.waiting()} == {0, 77}


def test_what_ended_since_stays_away(tables: Tables) -> None:
    """The old table has it for ever, as its programs are gone."""
    forward, reply = tables.put(50000)
    tables.copy.first()
    tables.flows.map.delete(forward)
    tables.flows.map.delete(reply)
    assert tables.copy.missing() == 0
    late = tables.put(50001)
    assert tables.copy.missing() == 2
    tables.flows.map.delete(late[0])
    assert tables.copy.missing() == 0


def test_every_flow_stands_in_the_queue_once(tables: Tables) -> None:
    """One entry of each pair, and each that stands alone; also of those that come later."""
    first = [tables.put(port) for port in range(1024, 3024)]
    alone = tables.flows.put_alone(5000, 1000)
    tables.move(alone)
    tables.copy.first()
    second = [tables.put(port) for port in range(10000, 10100)]
    tables.copy.missing()

    places = tables.waiting()

    assert len(places) == len(first) + 1 + len(second)
    line = {place.key for place in places}
    assert alone in line
    assert all(len(line & set(pair)) == 1 for pair in (*first, *second))
    turn = tables.flows.table.flows.decode(tables.flows.map.lookup(alone) or b"").turn
    assert {place.turn for place in places} == {turn}
