# SPDX-License-Identifier: Apache-2.0
"""Binding records to structs: what is accepted, and that every difference is refused by name."""

from __future__ import annotations

import re
from enum import IntFlag
from typing import Any, NamedTuple

import pytest

from kubeproxy_bpf.dataplane.layout import bind, check_enum, digest
from kubeproxy_bpf.errors import LayoutError
from kubeproxy_bpf.libbpf.btf import INT, PTR, STRUCT, Enum, Member, Struct, Type

U8, U16, U32 = (Type(INT, "int", size) for size in (1, 2, 4))
BE16 = Type(INT, "unsigned short", 2, ("__be16", "__u16"))
ADDRESS = Type(STRUCT, "ip_addr", 16)


class Types:
    def __init__(self, *members: Member, size: int) -> None:
        self.structs = {"key": Struct("key", size, members)}
        self.enums = {"flags": Enum("flags", 4, {"F_ONE": 1, "F_TWO": 2})}


class Key(NamedTuple):
    address: bytes
    port: int
    protocol: int


def member(name: str, offset: int, type: Type) -> Member:
    return Member(name, offset * 8, type)


GOOD = (
    member("address", 0, ADDRESS),
    member("port", 16, BE16),
    member("protocol", 18, U8),
    member("pad0", 19, U8),
)


def test_a_record_survives_the_round_trip() -> None:
    """Wire order for __be fields, host order for others, zero for padding."""
    codec = bind(Types(*GOOD, size=20), "key", Key)
    key = Key(bytes(range(16)), 0x1234, 6)

    raw = codec.encode(key)

    assert bytes(range(16)) + b"\x12\x34\x06\x00" == raw
    assert key == codec.decode(raw)
    assert (raw + raw, [key, key]) == (codec.encode_all([key, key]), codec.decode_all(raw + raw))


@pytest.mark.parametrize(
    "members, size, complaint",
    [
        ((GOOD[0], GOOD[2]._replace(offset_bits=128), GOOD[1]), 20, "C has"),
        (GOOD[:3], 19 + 1, "1 bytes without a name at the end"),
        ((*GOOD[:2], GOOD[2]._replace(offset_bits=19 * 8)), 20, "without a name before protocol"),
        ((*GOOD[:2], GOOD[2]._replace(bitfield_bits=3), GOOD[3]), 20, "bit-field"),
        ((*GOOD[:2], GOOD[2]._replace(type=Type(PTR, "", 8))), 26, "no record can hold"),
        (GOOD[:2], 18, "C has"),
    ],
)
def test_every_difference_is_refused(members: Any, size: int, complaint: str) -> None:
    """The error names struct, record and field."""
    with pytest.raises(LayoutError, match=f"struct key and Key.*{re.escape(complaint)}"):
        bind(Types(*members, size=size), "key", Key)


def test_a_missing_struct_is_a_layout_error() -> None:
    """Not a KeyError somewhere deep."""
    with pytest.raises(LayoutError, match="no such struct"):
        bind(Types(size=0), "other", Key)


@pytest.mark.parametrize("names", [{"ONE": 1}, {"ONE": 1, "TWO": 4}, {"ONE": 1, "TWO": 2, "X": 8}])
def test_enums_are_compared_both_ways(names: dict[str, int]) -> None:
    """A name too many, one too few and another value are all refused."""
    types = Types(size=0)
    check_enum(types, "flags", "F_", IntFlag("Same", {"ONE": 1, "TWO": 2}))

    with pytest.raises(LayoutError, match="flags"):
        check_enum(types, "flags", "F_", IntFlag("Other", names))


def test_the_digest_tells_layouts_apart() -> None:
    """Equal exactly if all members have the same places."""
    other = (*GOOD[:2], GOOD[3]._replace(offset_bits=18 * 8), GOOD[2]._replace(offset_bits=19 * 8))
    same, swapped = (digest(Types(*members, size=20), "key") for members in (GOOD, other))

    assert digest(Types(*GOOD, size=20), "key") == same
    assert same != swapped
