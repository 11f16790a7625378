# SPDX-License-Identifier: Apache-2.0
"""Maps in the kernel that take over what maps of another layout hold."""

from __future__ import annotations

import struct
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, Callable, Iterator

import pytest

from kubeproxy_bpf.dataplane.convert import Conversion, Move
from kubeproxy_bpf.dataplane.migrate import Past
from kubeproxy_bpf.dataplane.owned import RunningMap
from kubeproxy_bpf.dataplane.statecopy import Form, StateCopy, copy
from kubeproxy_bpf.libbpf import BpfMap, Btf, MapType
from kubeproxy_bpf.libbpf.btf import Member, Struct

from ..queues import pop_all
from .conftest import Flows

pytestmark = pytest.mark.root

LONGER = Form(Conversion(4, 4, [Move(0, 0, 4)]), Conversion(4, 8, [Move(0, 4, 4)]))
Made = Callable[..., BpfMap]


@pytest.fixture
def made() -> Iterator[Made]:
    with ExitStack() as stack:

        def make(value_size: int, room: int, type: int = MapType.HASH, key_size: int = 4) -> BpfMap:
            fresh = BpfMap.create(type, "kpbt_move", key_size, value_size, room)
            return stack.enter_context(fresh)

        yield make


def u32(*numbers: int) -> bytes:
    return struct.pack(f"={len(numbers)}I", *numbers)


def test_every_entry_is_there_in_its_new_form(made: Made) -> None:
    """Also more of them than one batch takes."""
    old, new = made(4, 20000), made(8, 20000)
    numbers = range(10000)
    old.update_batch(u32(*numbers), u32(*(n * 3 for n in numbers)), len(numbers))

    assert copy(old, new, LONGER) == len(numbers)

    assert dict(new.items()) == {u32(n): u32(0, n * 3) for n in numbers}


def test_what_is_there_already_wins_the_second_time(made: Made) -> None:
    """The programs that write it now know better; what came in between is added, and what was
    copied, and removed since, stays away."""
    old, new = made(4, 8), made(8, 8)
    new.update(u32(1), u32(7, 7))
    for number in (1, 2, 3):
        old.update(u32(number), u32(number))

    later = StateCopy(old, new, LONGER)
    later.seen.add(hash(u32(3)))

    assert later.missing() == 1

    assert dict(new.items()) == {u32(1): u32(7, 7), u32(2): u32(0, 2)}


@pytest.mark.parametrize("again", [False, True])
def test_a_smaller_map_takes_what_it_has_room_for(again: bool, made: Made) -> None:
    """The rest is lost, and nothing else."""
    old, new = made(4, 100), made(8, 10)
    for number in range(50):
        old.update(u32(number), u32(number))
    if again:
        StateCopy(old, new, LONGER).missing()
    else:
        copy(old, new, LONGER)
    assert len(list(new.keys())) == 10


def test_arrays_keep_their_places(made: Made) -> None:
    """An index means the same in a longer array; what lies behind a shorter one is gone."""
    old = made(4, 10000, MapType.ARRAY)
    for index in (0, 3, 9999):
        old.update(u32(index), u32(index + 1))
    longer, shorter = made(8, 12000, MapType.ARRAY), made(8, 5000, MapType.ARRAY)
    for new in (longer, shorter):
        copy(old, new, LONGER)
        assert [new.lookup(u32(n)) for n in (0, 1, 3)] == [u32(0, 1), u32(0, 0), u32(0, 4)]
    assert longer.lookup(u32(9999)) == u32(0, 10000)


def _older(btf: Btf) -> Any:
    """The types of flows when each began with eight bytes of something else."""
    flow = btf.structs["flow"]
    first = Member("was", 0, btf.structs["service_stats"].members[0].type)
    moved = (each._replace(offset_bits=each.offset_bits + 64) for each in flow.members)
    older = Struct("flow", flow.size + 8, (first, *moved))
    return SimpleNamespace(structs={**btf.structs, "flow": older}, enums=btf.enums, maps=btf.maps)


def test_flows_of_another_layout_go_on(flows: Flows, made: Made, packet_btf: Btf) -> None:
    """Both directions, as they were."""
    pairs = [flows.put(port, 1000, 1000) for port in range(1000, 1200)]
    expected = dict(flows.map.items())
    key_size, size = flows.map.key_size, flows.map.value_size
    old = made(size + 8, 8192, key_size=key_size)
    for key, value in expected.items():
        old.update(key, b"\xff" * 8 + value)
        flows.map.delete(key)
    past = Past({"kpb_flows": RunningMap(old, _older(packet_btf))}, packet_btf)

    past.copy_plan({"kpb_flows": flows.map})
    assert flows.count == 0
    past.copy_state({"kpb_flows": flows.map})

    assert dict(flows.map.items()) == expected
    assert all(key in flows for pair in pairs for key in pair)
    past.close()


def test_what_cannot_be_converted_is_left_out(flows: Flows, made: Made, packet_btf: Btf) -> None:
    """The table starts empty, and says so; nothing is guessed."""
    types = _older(packet_btf)
    del types.structs["flow"]
    old = made(72, 8, key_size=flows.map.key_size)
    old.update(bytes(flows.map.key_size), bytes(72))
    past = Past({"kpb_flows": RunningMap(old, types)}, packet_btf)
    past.copy_state({"kpb_flows": flows.map})
    assert flows.count == 0
    past.close()


def test_only_what_programs_write_is_shared(made: Made, packet_btf: Btf) -> None:
    """What user space writes would change under programs that know another half of it."""
    names = ("kpb_flows", "kpb_sock_state", "kpb_services")
    past = Past({name: RunningMap(made(4, 8), packet_btf) for name in names}, packet_btf)
    assert set(past.share(lambda name, running: name != "kpb_flows")) == {"kpb_sock_state"}
    past.close()


def test_flows_are_shared_with_their_queue_or_not_at_all(
    flows: Flows, made: Made, packet_btf: Btf
) -> None:
    """Those of a version that lined them up otherwise are copied, and lined up anew: else the table
    would be full of flows that nobody looks at."""
    pairs = [flows.put(port, 1000, 1000) for port in range(1000, 1200)]
    old = made(flows.map.value_size, 8192, key_size=flows.map.key_size)
    for key, value in list(flows.map.items()):
        old.update(key, value)
        flows.map.delete(key)
    size = packet_btf.structs["track_place"].size
    new = {
        "kpb_flows": flows.map,
        "kpb_flow_queue": made(size, 8192, MapType.QUEUE, key_size=0),
    }
    running = {"kpb_flows": old, "kpb_flow_queue": made(8, 8, MapType.QUEUE, key_size=0)}
    past = Past({name: RunningMap(map, packet_btf) for name, map in running.items()}, packet_btf)

    assert past.share(lambda name, running: name == "kpb_flows") == {}
    past.copy_state(new)

    assert flows.count == 2 * len(pairs)
    assert len(list(pop_all(new["kpb_flow_queue"]))) == len(pairs)
    past.close()
