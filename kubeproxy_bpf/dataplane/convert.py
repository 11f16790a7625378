# SPDX-License-Identifier: Apache-2.0
"""Turns entries of one layout into those of another, member by member, by the names in their BTF.

What both layouts have is kept; what is new is zero; what is gone is dropped. A member may grow, but
not shrink or become something else: then there is no conversion. Values are taken as they are: if
programs compute one in another way, its member must get another name. Pure; used by ``migrate``.
"""

from __future__ import annotations

import sys
from typing import Literal, Mapping, NamedTuple, Sequence

from kubeproxy_bpf.dataplane.layout import TypeInfo
from kubeproxy_bpf.libbpf.btf import ARRAY, ENUM, INT, STRUCT
from kubeproxy_bpf.libbpf.btftypes import Type

_PADDING = "pad"
_FORMATS: Mapping[int, Literal["Q", "I", "H", "B"]] = {8: "Q", 4: "I", 2: "H", 1: "B"}


class NotConvertible(Exception):
    """A member became something that its old value says nothing about."""


class Move(NamedTuple):
    """Bytes of an old entry, and where in a new one they belong."""

    source: int
    target: int
    size: int


class Side(NamedTuple):
    """One of the two layouts: a type, and the structs that it is made of."""

    info: TypeInfo
    type: Type


class Conversion:
    """Makes new entries of old ones, many at once."""

    def __init__(self, old_size: int, new_size: int, moves: Sequence[Move]) -> None:
        self.old_size, self.new_size, self.moves = old_size, new_size, tuple(moves)
        self.same = old_size == new_size and self.moves == (Move(0, 0, old_size),)
        """Whether nothing changes."""
        places = [old_size, new_size, *(number for move in moves for number in move)]
        # Whole columns are copied at once, in the largest words that fit all of them.
        self._word = next(size for size in _FORMATS if all(p % size == 0 for p in places))

    def apply(self, raw: bytes, count: int) -> bytes:
        """Convert so many entries that lie one after the other."""
        if self.same:
            return raw[: count * self.old_size]
        made = bytearray(count * self.new_size)
        format = _FORMATS[self._word]
        old = memoryview(raw)[: count * self.old_size].cast(format)
        new = memoryview(made).cast(format)
        for move in self.moves:
            source, target = move.source // self._word, move.target // self._word
            for word in range(move.size // self._word):
                column = slice(source + word, None, self.old_size // self._word)
                new[target + word :: self.new_size // self._word] = old[column]
        return bytes(made)


def conversion(old: Side, new: Side) -> Conversion:
    """Return what makes new entries of old ones, or raise NotConvertible."""
    return Conversion(old.type.size, new.type.size, _merged(_moves(old, new, 0, 0)))


def _moves(old: Side, new: Side, source: int, target: int) -> list[Move]:
    if old.type.kind != new.type.kind:
        raise NotConvertible(f"{new.type.name or 'a member'} is of another kind")
    if new.type.kind == STRUCT:
        return _moves_of_struct(old, new, source, target)
    if new.type.kind == ARRAY:
        return _moves_of_array(old, new, source, target)
    if old.type.size != new.type.size and not _grows(old.type, new.type):
        raise NotConvertible(f"{old.type.size} bytes became {new.type.size}")
    return [Move(source, target, old.type.size)]


def _moves_of_struct(old: Side, new: Side, source: int, target: int) -> list[Move]:
    before = {member.name: member for member in old.info.structs[old.type.name].members}
    moves = []
    for member in new.info.structs[new.type.name].members:
        was = before.get(member.name)
        if was is None or member.name.startswith(_PADDING):
            continue
        sides = Side(old.info, was.type), Side(new.info, member.type)
        moves += _moves(*sides, source + was.offset, target + member.offset)
    return moves


def _moves_of_array(old: Side, new: Side, source: int, target: int) -> list[Move]:
    if new.type.length < old.type.length or not (old.type.element and new.type.element):
        raise NotConvertible(f"{old.type.length} elements became {new.type.length}")
    sides = Side(old.info, old.type.element), Side(new.info, new.type.element)
    sizes = old.type.element.size, new.type.element.size
    moves = []
    for index in range(old.type.length):
        moves += _moves(*sides, source + index * sizes[0], target + index * sizes[1])
    return moves


def _grows(old: Type, new: Type) -> bool:
    """Whether the old bytes are the low ones of the new number."""
    wire = any(typedef.startswith("__be") for typedef in (*old.typedefs, *new.typedefs))
    plain = new.kind in (INT, ENUM) and not (old.signed or new.signed or wire)
    return plain and new.size > old.size and sys.byteorder == "little"


def _merged(moves: list[Move]) -> list[Move]:
    """The same with neighbours joined."""
    joined: list[Move] = []
    for move in sorted(moves, key=lambda each: each.target):
        last = joined[-1] if joined else None
        if last and (last.source + last.size, last.target + last.size) == move[:2]:
            joined[-1] = last._replace(size=last.size + move.size)
        else:
            joined.append(move)
    return joined
