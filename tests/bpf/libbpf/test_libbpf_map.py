# SPDX-License-Identifier: Apache-2.0
"""Maps: elements, batches, iteration, memory, pins."""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path
from typing import Iterator

import pytest

from kubeproxy_bpf.libbpf import (
    BatchError,
    BpfMap,
    BpfObject,
    LibbpfError,
    MapFlag,
    MapType,
    UpdateFlag,
    _native,
    bpfmap,
    possible_cpus,
)
from kubeproxy_bpf.libbpf.errors import ENOTSUPP

pytestmark = pytest.mark.root

COUNT = 10_000


def numbers(first: int, stop: int) -> bytes:
    """Pack numbers as 4-byte keys."""
    return struct.pack(f"={stop - first}I", *range(first, stop))


def number(value: int) -> bytes:
    """Pack one number as a 4-byte key."""
    return struct.pack("=I", value)


@pytest.fixture
def table() -> Iterator[BpfMap]:
    """A hash table with room for all keys of a test."""
    with BpfMap.create(MapType.HASH, "kpbt_table", 4, 4, COUNT) as created:
        yield created


@pytest.mark.parametrize("name", ["t_hash", "t_lru"])
def test_hash_elements_come_and_go(loaded: BpfObject, name: str) -> None:
    """A written element is read back, and deleting tells whether it was there."""
    with loaded.maps[name].map as table:
        table.update(b"k" * 8, b"v" * 16)

        assert b"v" * 16 == table.lookup(b"k" * 8)
        assert table.lookup(b"x" * 8) is None
        assert table.delete(b"k" * 8)
        assert not table.delete(b"k" * 8)


def test_array_elements_always_exist(loaded: BpfObject) -> None:
    """An array refuses deletion and yields zeros for what nobody wrote."""
    with loaded.maps["t_array"].map as array:
        assert bytes(16) == array.lookup(number(999))
        assert array.lookup(number(1000)) is None
        with pytest.raises(LibbpfError) as caught:
            array.delete(number(0))

    assert (errno.EINVAL, "t_array") == (caught.value.errno, caught.value.object)


def test_per_cpu_values_hold_one_for_each_processor(loaded: BpfObject) -> None:
    """A per-CPU value is as long as what the kernel copies, 8 aligned bytes per processor."""
    loaded.programs["t_count"].test_run(bytes(64), repeat=5)

    with loaded.maps["t_percpu"].map as counters:
        value = counters.lookup(number(3)) or b""
        listed = dict(counters.items())
        counters.update(number(3), bytes(8 * possible_cpus()))

        assert 8 * possible_cpus() == len(value)
        assert 5 == sum(struct.unpack(f"={possible_cpus()}Q", value))
        assert value == listed[number(3)]
        assert bytes(8 * possible_cpus()) == counters.lookup(number(3))


def test_socket_storage_is_reached_by_socket(loaded: BpfObject) -> None:
    """The key of socket storage is the descriptor of a socket."""
    with loaded.maps["t_storage"].map as storage, socket.socket() as sock:
        key = number(sock.fileno())

        assert storage.lookup(key) is None
        storage.update(key, b"s" * 16)
        assert b"s" * 16 == storage.lookup(key)


def test_flags_choose_between_new_and_existing(table: BpfMap) -> None:
    """NOEXIST refuses what exists."""
    table.update(number(1), number(1), UpdateFlag.NOEXIST)

    with pytest.raises(LibbpfError) as caught:
        table.update(number(1), number(2), UpdateFlag.NOEXIST)

    assert errno.EEXIST == caught.value.errno
    assert "bpf_map_update_elem(kpbt_table): File exists [EEXIST]" == str(caught.value)


@pytest.mark.parametrize("size", [0, 3, 5])
def test_wrong_lengths_never_reach_the_kernel(table: BpfMap, size: int) -> None:
    """A key or value of another size is refused: the kernel would read past it."""
    with pytest.raises(ValueError):
        table.lookup(bytes(size))
    with pytest.raises(ValueError):
        table.update(bytes(4), bytes(size))
    with pytest.raises(ValueError):
        table.delete(bytes(size))
    with pytest.raises(ValueError):
        table.update_batch(bytes(8), bytes(4 + size), 2)
    with pytest.raises(ValueError):
        table.delete_batch(bytes(4 + size), 2)


def test_a_large_batch_is_written_read_and_deleted(table: BpfMap) -> None:
    """10,000 elements pass through batches unchanged."""
    keys, values = numbers(0, COUNT), numbers(COUNT, 2 * COUNT)

    assert COUNT == table.update_batch(keys, values, COUNT)
    assert {number(i): number(i + COUNT) for i in range(COUNT)} == dict(table.items())
    assert COUNT == len(set(table.keys()))
    assert COUNT == table.delete_batch(keys, COUNT)
    assert [] == list(table.items())


def test_an_empty_batch_does_nothing(table: BpfMap) -> None:
    """Zero elements are no error."""
    assert 0 == table.update_batch(b"", b"", 0)
    assert 0 == table.delete_batch(b"", 0)


def test_batch_deletion_skips_what_is_absent(table: BpfMap) -> None:
    """Only keys that were there are counted, wherever the absent ones stand."""
    table.update_batch(numbers(2, 6), numbers(2, 6), 4)

    assert 3 == table.delete_batch(numbers(0, 5), 5)
    assert [number(5)] == list(table.keys())


def test_a_batch_that_does_not_fit_says_how_far_it_came() -> None:
    """BatchError counts the elements that are in place."""
    with BpfMap.create(MapType.HASH, "kpbt_small", 4, 4, 10) as small:
        with pytest.raises(BatchError) as caught:
            small.update_batch(numbers(0, 12), numbers(0, 12), 12)

        assert (errno.E2BIG, 10) == (caught.value.errno, caught.value.done)
        assert 10 == len(list(small.keys()))


def test_flags_that_batches_refuse_take_one_call_each(table: BpfMap) -> None:
    """NOEXIST works for a batch and stops at the element that exists."""
    table.update(number(3), number(3))

    with pytest.raises(BatchError) as caught:
        table.update_batch(numbers(0, 6), numbers(0, 6), 6, UpdateFlag.NOEXIST)

    assert (errno.EEXIST, 3) == (caught.value.errno, caught.value.done)


def test_a_kernel_without_batches_is_served_all_the_same(
    table: BpfMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every batch call falls back to single elements."""
    for call in ("update", "lookup", "delete"):
        monkeypatch.setattr(_native, f"bpf_map_{call}_batch", lambda *_: -ENOTSUPP)

    assert 3 == table.update_batch(numbers(0, 3), numbers(1, 4), 3)
    assert {number(i): number(i + 1) for i in range(3)} == dict(table.items())
    assert 2 == table.delete_batch(numbers(1, 5), 4)
    assert [number(0)] == list(table.keys())


def test_iteration_makes_room_for_large_buckets(
    table: BpfMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket that is larger than the buffer is read with a larger one."""
    monkeypatch.setattr(bpfmap, "_LOOKUP_BATCH", 1)
    table.update_batch(numbers(0, COUNT), numbers(0, COUNT), COUNT)

    assert set(range(COUNT)) == {int.from_bytes(k, "little") for k in table.keys()}


def test_a_prefix_map_can_be_listed() -> None:
    """Keys longer than the cursor of a hash table pass through iteration too."""
    keys = [struct.pack("=I16s", 128, bytes([i]) * 16) for i in range(20)]
    with BpfMap.create(MapType.LPM_TRIE, "kpbt_lpm", 20, 1, 100, MapFlag.NO_PREALLOC) as prefixes:
        prefixes.update_batch(b"".join(keys), bytes(20), 20)

        assert sorted(keys) == sorted(prefixes.keys())


def test_mapped_memory_and_calls_see_the_same(loaded: BpfObject) -> None:
    """A store into the mapping is seen by lookup, an update is seen in the mapping."""
    with loaded.maps["t_array"].map as array, array.mmap() as memory:
        memory[16 * 999 : 16 * 1000] = b"m" * 16
        array.update(number(0), b"u" * 16)

        assert b"m" * 16 == array.lookup(number(999))
        assert b"u" * 16 == memory[:16]
        assert 0 == len(memory) % 4096


def test_a_read_only_mapping_refuses_stores(loaded: BpfObject) -> None:
    """Readers cannot write by mistake."""
    with loaded.maps["t_array"].map as array, array.mmap(writable=False) as memory:
        with pytest.raises(TypeError):
            memory[0] = 1


def test_only_mmapable_maps_are_mapped(table: BpfMap) -> None:
    """Other maps raise, naming themselves."""
    with pytest.raises(LibbpfError) as caught:
        table.mmap()

    assert ("mmap", "kpbt_table") == (caught.value.call, caught.value.object)


def test_a_pinned_map_is_found_again(table: BpfMap, bpffs: Path) -> None:
    """The pin and the id lead to the same map."""
    table.update(number(1), number(2))
    table.pin(bpffs / "table")

    with BpfMap.open_pinned(bpffs / "table") as pinned, BpfMap.from_id(table.info().id) as by_id:
        assert number(2) == pinned.lookup(number(1)) == by_id.lookup(number(1))


def test_a_missing_pin_is_named(bpffs: Path) -> None:
    """The path stands in the error."""
    with pytest.raises(LibbpfError) as caught:
        BpfMap.open_pinned(bpffs / "nothing")

    assert (errno.ENOENT, str(bpffs / "nothing")) == (caught.value.errno, caught.value.object)


def test_info_tells_size_and_memory(loaded: BpfObject) -> None:
    """Sizes, flags and the memory that the map is charged for."""
    with loaded.maps["t_array"].map as array:
        info = array.info()

    assert (MapType.ARRAY, "t_array", 4, 16, 1000) == info[1:6]
    assert MapFlag.MMAPABLE == info.flags
    assert info.memlock >= 16 * 1000
    assert not info.frozen


def test_a_frozen_map_refuses_writes(table: BpfMap) -> None:
    """After freeze() user space only reads."""
    table.freeze()

    assert table.info().frozen
    with pytest.raises(LibbpfError) as caught:
        table.update(number(1), number(1))
    assert errno.EPERM == caught.value.errno


def test_a_map_of_maps_holds_maps(table: BpfMap) -> None:
    """The pattern given at creation decides what fits; a lookup yields the id."""
    with BpfMap.create(MapType.ARRAY_OF_MAPS, "kpbt_outer", 4, 4, 1, inner=table) as outer:
        outer.update(number(0), number(table.fd))

        assert number(table.info().id) == outer.lookup(number(0))


def test_a_descriptor_that_is_no_map_is_closed() -> None:
    """Taking over a wrong descriptor fails without keeping it, even while the error is alive."""
    with socket.socket() as sock:
        fd = sock.detach()
        with pytest.raises(LibbpfError) as caught:
            BpfMap(fd)

        assert not os.path.exists(f"/proc/self/fd/{fd}"), caught.value


def test_a_closed_map_raises(table: BpfMap) -> None:
    """Use after close is an error, a second close is not."""
    table.close()
    table.close()

    with pytest.raises(ValueError, match="BpfMap is closed"):
        table.lookup(number(1))
