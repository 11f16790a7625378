# SPDX-License-Identifier: Apache-2.0
"""Entries of one layout as entries of another."""

from __future__ import annotations

import struct
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_bpf.dataplane.convert import Conversion, Move, NotConvertible, Side, conversion
from kubeproxy_bpf.libbpf.btf import ARRAY, INT, STRUCT, Member, Struct
from kubeproxy_bpf.libbpf.btftypes import Type

U8, U16, U32, U64 = (Type(INT, f"u{8 * size}", size) for size in (1, 2, 4, 8))
BE16 = U16._replace(typedefs=("__be16",))
LITTLE = pytest.mark.skipif(sys.byteorder != "little", reason="numbers grow at their other end")


def side(**structs: list[tuple[str, Type]]) -> Side:
    """A layout; its last struct is the entry, members stand without gaps."""
    made = {}
    for name, members in structs.items():
        placed, end = [], 0
        for member, kind in members:
            placed.append(Member(member, end * 8, kind))
            end += kind.size
        made[name] = Struct(name, end, tuple(placed))
    info: Any = SimpleNamespace(structs=made, enums={})
    return Side(info, Type(STRUCT, name, end))


def array(element: Type, length: int) -> Type:
    return Type(ARRAY, "", element.size * length, length=length, element=element)


def test_the_same_layout_needs_no_work() -> None:
    """Bytes that lie behind the entries are left out."""
    layout = side(entry=[("a", U32), ("b", U32)])
    found = conversion(layout, layout)
    assert found.same
    assert found.apply(bytes(range(24)), 2) == bytes(range(16))


def test_members_are_found_by_name() -> None:
    """They change places, new ones are zero, and what is gone goes."""
    old = side(entry=[("a", U32), ("gone", U32), ("b", U16), ("c", U16)])
    new = side(entry=[("c", U16), ("b", U16), ("new", U64), ("a", U32)])
    raw = struct.pack("=" + "IIHH" * 2, 1, 2, 3, 4, 5, 6, 7, 8)
    assert conversion(old, new).apply(raw, 2) == struct.pack(
        "=" + "HHQI" * 2, 4, 3, 0, 1, 8, 7, 0, 5
    )


def test_padding_is_no_member() -> None:
    """What it held before may be anything; what it holds now is zero."""
    old = side(entry=[("a", U32), ("pad0", U32)])
    new = side(entry=[("a", U32), ("pad0", U32)])
    assert conversion(old, new).apply(b"\xff" * 8, 1) == b"\xff" * 4 + bytes(4)


def test_structs_and_arrays_within_are_converted_too() -> None:
    """Each element of an array, and an array may get longer."""
    old = side(inner=[("x", U32)], entry=[("many", array(Type(STRUCT, "inner", 4), 2))])
    new = side(inner=[("y", U32), ("x", U32)], entry=[("many", array(Type(STRUCT, "inner", 8), 3))])
    raw = struct.pack("=II", 1, 2)
    assert conversion(old, new).apply(raw, 1) == struct.pack("=6I", 0, 1, 0, 2, 0, 0)


@LITTLE
def test_a_number_may_grow() -> None:
    """Its value stays."""
    found = conversion(side(entry=[("a", U16), ("b", U16)]), side(entry=[("a", U64), ("b", U16)]))
    assert found.apply(struct.pack("=HH", 500, 7), 1) == struct.pack("=QH", 500, 7)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (U32, U16),
        (BE16, U32),
        (U16._replace(signed=True), U32),
        (U32, array(U8, 4)),
        (array(U32, 4), array(U32, 2)),
    ],
    ids=["shrinks", "in wire order", "signed", "another kind", "shorter"],
)
def test_what_cannot_be_told_is_refused(before: Type, now: Type) -> None:
    """No guess."""
    with pytest.raises(NotConvertible):
        conversion(side(entry=[("a", before)]), side(entry=[("a", now)]))


_SIZES = st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=6)


@given(_SIZES, _SIZES, st.permutations(range(6)), st.integers(1, 5), st.randoms())
def test_columns_are_the_same_as_entry_by_entry(before, behind, order, count, random) -> None:
    """Whatever moves where: bytes that no move names are zero."""
    old_size = sum(before)
    starts = [sum(before[:i]) for i in range(len(before))]
    moves, target = [], 0
    for index in order:
        if index < len(before):
            target += behind[index % len(behind)]
            moves.append(Move(starts[index], target, before[index]))
            target += before[index]
    raw = random.randbytes(old_size * count)
    expected = bytearray(target * count)
    for n in range(count):
        for move in moves:
            value = raw[n * old_size + move.source :][: move.size]
            expected[n * target + move.target : n * target + move.target + move.size] = value
    assert Conversion(old_size, target, moves).apply(raw, count) == bytes(expected)
