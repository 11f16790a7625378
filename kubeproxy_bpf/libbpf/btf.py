# SPDX-License-Identifier: Apache-2.0
"""Reads BTF, the type information of a BPF object, into plain records.

Only what binding records to C needs: structs and unions, enums, variables of a section and the
key and value types of maps. Everything is resolved and checked by ``parse``; bytes that are cut
short or contradict themselves raise BtfError. Made for objects of a few thousand types, not for
the kernel's own BTF. Pure: no libbpf, no system call.
"""

from __future__ import annotations

import struct
from typing import Mapping, NamedTuple, Self

from .btftypes import (
    ARRAY,
    CONST,
    DATASEC,
    DECL_TAG,
    ENUM,
    ENUM64,
    FLOAT,
    FUNC,
    FUNC_PROTO,
    FWD,
    INT,
    PTR,
    RESTRICT,
    STRUCT,
    TYPE_TAG,
    TYPEDEF,
    UNION,
    VAR,
    VOLATILE,
    Datasec,
    Enum,
    MapTypes,
    Member,
    Struct,
    Type,
    Variable,
)
from .errors import BtfError

__all__ = [
    "ARRAY",
    "Btf",
    "BtfError",
    "Datasec",
    "ENUM",
    "ENUM64",
    "Enum",
    "FLOAT",
    "INT",
    "MapTypes",
    "Member",
    "PTR",
    "STRUCT",
    "Struct",
    "Type",
    "UNION",
    "Variable",
]

_MAGIC = 0xEB9F
_HEADER_BYTES = 24
_MAX_DEPTH = 32  # of typedefs, qualifiers and array dimensions around one type
_MAX_NAME = 512

_WRAPPERS = {TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG}
_POINTER_BYTES = 8
# Bytes that follow the 12 common ones: fixed, and for each of vlen elements.
_TAIL = {
    **{kind: (0, 0) for kind in (PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT)},
    **{kind: (0, 0) for kind in (FUNC, FLOAT, TYPE_TAG)},
    **{kind: (4, 0) for kind in (INT, VAR, DECL_TAG)},
    **{kind: (0, 12) for kind in (STRUCT, UNION, DATASEC, ENUM64)},
    **{kind: (0, 8) for kind in (ENUM, FUNC_PROTO)},
    ARRAY: (12, 0),
}


class _Raw(NamedTuple):
    kind: int
    name: str
    vlen: int
    flag: bool
    size_or_type: int
    tail: int  # offset of what follows


class Btf:
    """Types by name."""

    def __init__(self, reader: _Reader) -> None:
        self.structs: dict[str, Struct] = {}
        self.enums: dict[str, Enum] = {}
        self.constants: dict[str, int] = {}  # of enums without a name
        self.datasecs: dict[str, Datasec] = {}
        self.maps: dict[str, MapTypes] = {}
        for raw in reader.types[1:]:
            if raw.kind in (STRUCT, UNION) and raw.name:
                self.structs[raw.name] = reader.struct_of(raw)
            elif raw.kind in (ENUM, ENUM64):
                self._add_enum(reader.enum_of(raw))
            elif raw.kind == DATASEC:
                self.datasecs[raw.name] = reader.datasec_of(raw)
                if raw.name == ".maps":
                    self.maps.update(reader.maps_of(raw))

    def _add_enum(self, enum: Enum) -> None:
        if enum.name:
            self.enums[enum.name] = enum
        else:
            self.constants.update(enum.values)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read the contents of a ``.BTF`` section."""
        try:
            return cls(_Reader(raw))
        except struct.error as error:
            raise BtfError(f"cut short: {error}") from None
        except UnicodeDecodeError as error:
            raise BtfError(f"a name is not text: {error}") from None


class _Reader:
    """Walks the raw types; every method may raise BtfError, struct.error or UnicodeDecodeError."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.order = "<" if raw[:2] == _MAGIC.to_bytes(2, "little") else ">"
        magic, version, _, header = self._unpack("HBBI", 0)
        if magic != _MAGIC or version != 1 or header < _HEADER_BYTES:
            raise BtfError(f"not BTF: magic {magic:#x}, version {version}")
        type_off, type_len, str_off, str_len = self._unpack("IIII", 8)
        first = header + type_off
        self.strings = raw[header + str_off : header + str_off + str_len]
        if first + type_len > len(raw) or len(self.strings) != str_len:
            raise BtfError("cut short: sections lie outside the data")
        self.types = [_Raw(0, "void", 0, False, 0, 0)]
        self._read_types(first, first + type_len)
        self._resolved: dict[int, Type] = {}

    def _unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        return struct.unpack_from(self.order + layout, self.raw, offset)

    def _read_types(self, offset: int, end: int) -> None:
        while offset < end:
            name, info, size_or_type = self._unpack("III", offset)
            kind, vlen = info >> 24 & 0x1F, info & 0xFFFF
            if kind not in _TAIL:
                raise BtfError(f"type {len(self.types)} is of unknown kind {kind}")
            fixed, each = _TAIL[kind]
            tail = offset + 12
            offset = tail + fixed + each * vlen
            if offset > end:
                raise BtfError(f"type {len(self.types)} is cut short")
            raw = _Raw(kind, self._string(name), vlen, bool(info >> 31), size_or_type, tail)
            self.types.append(raw)

    def _string(self, offset: int) -> str:
        end = self.strings.find(b"\0", offset, offset + _MAX_NAME)
        if end < 0:
            raise BtfError(f"no name at {offset}")
        return self.strings[offset:end].decode()

    def _type(self, id: int) -> _Raw:
        if id >= len(self.types):
            raise BtfError(f"type {id} does not exist")
        return self.types[id]

    def resolve(self, id: int, depth: int = 0) -> Type:
        """Peel typedefs and qualifiers off a type."""
        if id in self._resolved:
            return self._resolved[id]
        if depth > _MAX_DEPTH:
            raise BtfError(f"type {id} never ends")
        raw = self._type(id)
        if raw.kind in _WRAPPERS:
            inner = self.resolve(raw.size_or_type, depth + 1)
            names = (raw.name,) if raw.kind == TYPEDEF else ()
            resolved = inner._replace(typedefs=names + inner.typedefs)
        else:
            resolved = self._resolve_bare(raw, depth)
        self._resolved[id] = resolved
        return resolved

    def _resolve_bare(self, raw: _Raw, depth: int) -> Type:
        if raw.kind == ARRAY:
            element_id, _, length = self._unpack("III", raw.tail)
            element = self.resolve(element_id, depth + 1)
            return Type(ARRAY, "", element.size * length, length=length, element=element)
        if raw.kind == PTR:
            return Type(PTR, "", _POINTER_BYTES, element=self._target(raw.size_or_type))
        if raw.kind == INT:
            (encoding,) = self._unpack("I", raw.tail)
            return Type(INT, raw.name, raw.size_or_type, signed=bool(encoding >> 24 & 1))
        if raw.kind in (STRUCT, UNION, FLOAT):
            return Type(raw.kind, raw.name, raw.size_or_type)
        if raw.kind in (ENUM, ENUM64):
            return Type(raw.kind, raw.name, raw.size_or_type, signed=raw.flag)
        return Type(raw.kind, raw.name, 0)

    def _target(self, id: int) -> Type | None:
        """What a pointer leads to, unless that is another pointer: structs point in circles."""
        for _ in range(_MAX_DEPTH):
            raw = self._type(id)
            if raw.kind not in _WRAPPERS:
                return None if raw.kind in (0, PTR, ARRAY) else self._resolve_bare(raw, 0)
            id = raw.size_or_type
        raise BtfError(f"type {id} never ends")

    def struct_of(self, raw: _Raw) -> Struct:
        members = []
        for index in range(raw.vlen):
            name, type_id, offset = self._unpack("III", raw.tail + 12 * index)
            bits = offset >> 24 if raw.flag else 0
            offset_bits = offset & 0xFFFFFF if raw.flag else offset
            members.append(Member(self._string(name), offset_bits, self.resolve(type_id), bits))
        return Struct(raw.name, raw.size_or_type, tuple(members))

    def enum_of(self, raw: _Raw) -> Enum:
        wide, values = raw.kind == ENUM64, {}
        for index in range(raw.vlen):
            if wide:
                name, low, high = self._unpack("IIi" if raw.flag else "III", raw.tail + 12 * index)
                value = high << 32 | low
            else:
                name, value = self._unpack("Ii" if raw.flag else "II", raw.tail + 8 * index)
            values[self._string(name)] = value
        return Enum(raw.name, raw.size_or_type, values)

    def _variables(self, raw: _Raw) -> list[tuple[_Raw, int, int]]:
        """The variables of a section: what, offset, size. Functions may stand there too."""
        found = []
        for index in range(raw.vlen):
            type_id, offset, size = self._unpack("III", raw.tail + 12 * index)
            variable = self._type(type_id)
            if variable.kind == VAR:
                found.append((variable, offset, size))
        return found

    def datasec_of(self, raw: _Raw) -> Datasec:
        variables = tuple(
            Variable(variable.name, offset, size, self.resolve(variable.size_or_type))
            for variable, offset, size in self._variables(raw)
        )
        return Datasec(raw.name, raw.size_or_type, variables)

    def maps_of(self, raw: _Raw) -> Mapping[str, MapTypes]:
        """Map definitions: structs whose members key and value point to the types."""
        found = {}
        for variable, _, _ in self._variables(raw):
            definition = self._type(variable.size_or_type)
            members: dict[str, Type | None] = {}
            if definition.kind == STRUCT:
                members = {m.name: m.type.element for m in self.struct_of(definition).members}
            found[variable.name] = MapTypes(members.get("key"), members.get("value"))
        return found
