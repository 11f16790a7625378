# SPDX-License-Identifier: Apache-2.0
"""What ``btf`` reads: kinds, and types as plain records without references to the raw data."""

from __future__ import annotations

from typing import Mapping, NamedTuple

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(12, 20)


class Type(NamedTuple):
    """A type with its typedefs and qualifiers peeled off."""

    kind: int
    name: str  # of the type itself ("unsigned int", "ip_addr"); empty if it has none
    size: int  # in bytes; 0 where unknown
    typedefs: tuple[str, ...] = ()  # outermost first: ("__be16", "__u16")
    signed: bool = False
    length: int = 0  # elements of an array
    element: Type | None = None  # of an array; what a pointer leads to, one step deep


class Member(NamedTuple):
    name: str
    offset_bits: int
    type: Type
    bitfield_bits: int = 0  # 0 = no bit field

    @property
    def offset(self) -> int:
        """In bytes; for a bit field the byte in which it begins."""
        return self.offset_bits // 8

    @property
    def size(self) -> int:
        return self.type.size


class Struct(NamedTuple):
    """A struct, or a union: then all members begin at 0."""

    name: str
    size: int
    members: tuple[Member, ...]


class Enum(NamedTuple):
    name: str
    size: int
    values: Mapping[str, int]  # unsigned, unless the compiler (LLVM 15 or newer) said signed


class Variable(NamedTuple):
    name: str
    offset: int
    size: int
    type: Type


class Datasec(NamedTuple):
    name: str
    size: int
    variables: tuple[Variable, ...]


class MapTypes(NamedTuple):
    """The types of a map that is defined in section ``.maps``."""

    key: Type | None
    value: Type | None
