# SPDX-License-Identifier: Apache-2.0
"""Binds records to the structs of the BPF object, so that a layout is written down only in C.

``bind`` learns offsets, sizes and byte order from the object's BTF and returns a codec; it refuses
any difference in field names or order, a bit-field, a gap without a name, or a field of unknown
kind. Wire order is a matter of the typedef: ``__be16`` and ``__be32`` members are swapped. Struct
members (``struct ip_addr``) are bytes. Called once per record when the object is loaded.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from enum import IntEnum, IntFlag
from typing import (
    Any,
    Callable,
    Generic,
    Iterable,
    Mapping,
    NamedTuple,
    Protocol,
    Sequence,
    TypeVar,
    cast,
)

from kubeproxy_bpf.errors import LayoutError
from kubeproxy_bpf.libbpf import btf as btf_kinds
from kubeproxy_bpf.libbpf.btf import Enum as BtfEnum
from kubeproxy_bpf.libbpf.btf import Member, Struct

R = TypeVar("R", bound=tuple[Any, ...])

_INT_FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_PADDING = "pad"


class TypeInfo(Protocol):
    """What is needed of ``libbpf.btf.Btf``."""

    @property
    def structs(self) -> Mapping[str, Struct]: ...
    @property
    def enums(self) -> Mapping[str, BtfEnum]: ...


class _Field(NamedTuple):
    name: str
    format: str
    swapped: bool


class Codec(Generic[R]):
    """Turns records of one kind into the bytes of their struct and back."""

    def __init__(self, record: type[R], size: int, fields: Sequence[_Field]) -> None:
        self.size = size
        """Bytes of the struct."""
        self._record = record
        self._struct = struct.Struct("=" + "".join(field.format for field in fields))
        named = [field for field in fields if field.name]
        self._swaps = [
            (position, _swap(field.format))
            for position, field in enumerate(named)
            if field.swapped and sys.byteorder == "little"
        ]

    def encode(self, record: R) -> bytes:
        """Return the bytes of one record; padding is zero."""
        if not self._swaps:
            return self._struct.pack(*record)
        return self._struct.pack(*self._swapped(record))

    def encode_all(self, records: Iterable[R]) -> bytes:
        """Return the bytes of many records, one after the other."""
        pack = self._struct.pack
        if not self._swaps:
            return b"".join([pack(*record) for record in records])
        swapped = self._swapped
        return b"".join([pack(*swapped(record)) for record in records])

    def decode(self, raw: bytes | memoryview) -> R:
        """Return the record that these bytes hold."""
        return self._made(self._struct.unpack(raw))

    def decode_all(self, raw: bytes | memoryview) -> list[R]:
        """Return the records that stand one after the other."""
        return [self._made(fields) for fields in self._struct.iter_unpack(raw)]

    def _made(self, fields: tuple[Any, ...]) -> R:
        make = cast(Any, self._record)._make
        return cast(R, make(self._swapped(fields) if self._swaps else fields))

    def _swapped(self, fields: Sequence[Any]) -> list[Any]:
        values = list(fields)
        for position, swap in self._swaps:
            values[position] = swap(values[position])
        return values


def bind(btf: TypeInfo, struct_name: str, record: type[R]) -> Codec[R]:
    """Return the codec of a record for the struct of this name, or raise LayoutError."""
    refuse = _Refusal(struct_name, record.__name__)
    layout = _struct(btf, struct_name, refuse)
    names = [member.name for member in layout.members if not _is_padding(member.name)]
    wanted = list(cast(Any, record)._fields)
    if names != wanted:
        raise refuse(f"C has {names}, {record.__name__} has {wanted}")
    return Codec(record, layout.size, _fields(layout, refuse))


def check_enum(
    btf: TypeInfo, enum_name: str, prefix: str, enum: type[IntEnum] | type[IntFlag]
) -> None:
    """Compare an enum name by name, both ways; C names carry the prefix."""
    refuse = _Refusal(enum_name, enum.__name__)
    try:
        values = btf.enums[enum_name].values
    except KeyError:
        raise refuse("the object has no such enum") from None
    theirs = {name.removeprefix(prefix): value for name, value in values.items()}
    ours = {name: int(member) for name, member in enum.__members__.items()}
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise refuse(f"{prefix}{name} is {theirs.get(name)} in C and {ours.get(name)} here")


def digest(btf: TypeInfo, *struct_names: str) -> str:
    """Name a set of layouts: equal exactly if all members have the same places."""
    hashed = hashlib.sha256()
    for name in sorted(struct_names):
        layout = _struct(btf, name, _Refusal(name, "digest"))
        hashed.update(f"{name} {layout.size}\n".encode())
        for member in layout.members:
            line = f"{name} {member.name} {member.offset_bits} {member.size}\n"
            hashed.update(line.encode())
    return hashed.hexdigest()[:12]


class _Refusal:
    """Makes the LayoutErrors of one binding."""

    def __init__(self, struct_name: str, record: str) -> None:
        self._names = (struct_name, record)

    def __call__(self, detail: str) -> LayoutError:
        return LayoutError(*self._names, detail)


def _struct(btf: TypeInfo, name: str, refuse: _Refusal) -> Struct:
    try:
        return btf.structs[name]
    except KeyError:
        raise refuse("the object has no such struct") from None


def _is_padding(name: str) -> bool:
    return name.startswith(_PADDING) and name[len(_PADDING) :].isdecimal()


def _fields(layout: Struct, refuse: _Refusal) -> list[_Field]:
    fields = []
    end = 0
    for member in layout.members:
        if member.bitfield_bits or member.offset_bits % 8:
            raise refuse(f"{member.name} is a bit-field")
        if member.offset != end:
            raise refuse(f"{member.offset - end} bytes without a name before {member.name}")
        fields.append(_field(member, refuse))
        end += member.size
    if end != layout.size:
        raise refuse(f"{layout.size - end} bytes without a name at the end")
    return fields


def _field(member: Member, refuse: _Refusal) -> _Field:
    if _is_padding(member.name):
        return _Field("", f"{member.size}x", False)
    kind = member.type.kind
    if kind in (btf_kinds.STRUCT, btf_kinds.UNION, btf_kinds.ARRAY):
        return _Field(member.name, f"{member.size}s", False)
    format = _INT_FORMATS.get(member.size)
    if kind not in (btf_kinds.INT, btf_kinds.ENUM) or format is None:
        raise refuse(f"{member.name} is of a kind that no record can hold")
    swapped = any(typedef.startswith("__be") for typedef in member.type.typedefs)
    if member.type.signed:
        format = format.lower()
    return _Field(member.name, format, swapped and member.size > 1)


def _swap(format: str) -> Callable[[int], int]:
    size = struct.calcsize("=" + format)

    def swap(value: int) -> int:
        return int.from_bytes(value.to_bytes(size, "little"), "big")

    return _swap16 if size == 2 else swap


def _swap16(value: int) -> int:
    return (value & 0xFF) << 8 | value >> 8
