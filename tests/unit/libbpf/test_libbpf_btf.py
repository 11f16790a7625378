# SPDX-License-Identifier: Apache-2.0
"""Reading BTF: what the compiler writes, what it could write, and garbage."""

from __future__ import annotations

import platform
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_bpf.libbpf.btf import ARRAY, ENUM, INT, PTR, STRUCT, UNION, Btf, BtfError

SOURCE = Path(__file__).with_name("shapes.bpf.c")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The .BTF section of a small object."""
    path = tmp_path_factory.mktemp("btf")
    system = f"-I/usr/include/{platform.machine()}-linux-gnu"
    compiler = ["clang", "-target", "bpf", "-g", "-O2", system]
    subprocess.run([*compiler, "-c", SOURCE, "-o", path / "a.o"], check=True)
    extract = ["llvm-objcopy", "--dump-section", f".BTF={path}/btf", path / "a.o", path / "b.o"]
    subprocess.run(extract, check=True)
    return (path / "btf").read_bytes()


@pytest.fixture(scope="module")
def btf(raw: bytes) -> Btf:
    """The same, read."""
    return Btf.parse(raw)


def test_members_have_offset_size_and_typedefs(btf: Btf) -> None:
    """A member's wire order is known by the name of its typedef."""
    port, octets, pad = btf.structs["inner"].members

    assert ("port", 0, 2, ("__be16", "__u16")) == (
        port.name,
        port.offset,
        port.size,
        port.type.typedefs,
    )
    assert ("bytes", 2, 3, ARRAY, 3) == (
        octets.name,
        octets.offset,
        octets.size,
        octets.type.kind,
        octets.type.length,
    )
    assert ("pad0", 5) == (pad.name, pad.offset)
    assert 6 == btf.structs["inner"].size


def test_every_shape_of_member_is_resolved(btf: Btf) -> None:
    """Arrays, nested structs, enums, signed numbers, bit fields and unions."""
    members = {m.name: m for m in btf.structs["outer"].members}
    element = members["inner"].type.element

    assert element is not None
    assert (STRUCT, "inner", ("inner_t",)) == (element.kind, element.name, element.typedefs)
    assert 12 == members["inner"].size
    assert (ENUM, "color", 4) == members["color"].type[:3]
    assert (INT, True) == (members["signed_number"].type.kind, members["signed_number"].type.signed)
    assert [3, 5] == [members[n].bitfield_bits for n in ("low", "high")]
    assert 3 == members["high"].offset_bits - members["low"].offset_bits
    assert UNION == members["either"].type.kind
    assert (STRUCT, "") == members[""].type[:2]
    assert 6 == members["grid"].size


def test_structs_that_point_in_circles_end(btf: Btf) -> None:
    """A pointer is resolved one step deep."""
    following, others = btf.structs["node"].members

    assert (PTR, 8) == (following.type.kind, following.size)
    assert following.type.element is not None
    assert ("node", None) == (following.type.element.name, others.type.element)


def test_enums_are_read_by_name(btf: Btf) -> None:
    """Values are by name; those of enums without a name are constants."""
    assert {"RED": 1, "GREEN": 2, "BLUE": 1 << 30} == dict(btf.enums["color"].values)
    assert 5 == btf.constants["LAST"]


def test_maps_know_their_key_and_value(btf: Btf) -> None:
    """The definition of a map leads to its types; a map without them has none."""
    key, value = btf.maps["table"]

    assert key is not None and value is not None
    assert ("inner", "outer") == (key.name, value.name)
    assert (None, None) == btf.maps["ring"]


def test_sections_list_their_variables(btf: Btf) -> None:
    """A variable is found by the name of its section."""
    (config,) = btf.datasecs[".rodata"].variables

    assert ("config", "outer") == (config.name, config.type.name)


def build(types: bytes, strings: bytes, order: str = "<") -> bytes:
    """Put a BTF section together."""
    header = struct.pack(
        order + "HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)
    )
    return header + types + strings


def entry(order: str, name: int, kind: int, vlen: int, size: int, flag: int = 0) -> bytes:
    """Write the twelve bytes that every type begins with."""
    return struct.pack(order + "III", name, flag << 31 | kind << 24 | vlen, size)


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_and_wide_enums_are_read(order: str) -> None:
    """A 64-bit enum keeps its sign in either byte order."""
    values = struct.pack(order + "IIi", 3, 0xFFFFFFFE, -1) + struct.pack(order + "IIi", 5, 0, 1)
    raw = build(entry(order, 1, 19, 2, 8, 1) + values, b"\0e\0a\0b\0", order)

    assert {"a": -2, "b": 1 << 32} == dict(Btf.parse(raw).enums["e"].values)


@pytest.mark.parametrize(("flag", "value"), [(0, 0xFFFFFFFE), (1, -2)])
def test_the_flag_of_an_enum_is_its_sign(flag: int, value: int) -> None:
    """A negative value is one only where the compiler says that the enum is signed."""
    raw = build(entry("<", 1, 6, 1, 4, flag) + struct.pack("<II", 3, 0xFFFFFFFE), b"\0e\0a\0")

    assert {"a": value} == dict(Btf.parse(raw).enums["e"].values)


@pytest.mark.parametrize(
    ("types", "words"),
    [
        (entry("<", 0, 31, 0, 0), "unknown kind"),
        (entry("<", 0, 4, 9, 4), "cut short"),
        (entry("<", 99, 1, 0, 4) + bytes(4), "no name"),
        (entry("<", 1, 4, 1, 4) + struct.pack("<III", 1, 77, 0), "does not exist"),
        (entry("<", 1, 4, 1, 4) + struct.pack("<III", 1, 2, 0) + entry("<", 1, 8, 0, 2), "ends"),
        (
            entry("<", 1, 4, 1, 4)
            + struct.pack("<III", 1, 2, 0)
            + entry("<", 0, 2, 0, 3)
            + entry("<", 1, 8, 0, 3),
            "ends",
        ),
    ],
    ids=["kind", "members", "string", "type", "typedef circle", "typedef circle behind a pointer"],
)
def test_contradictions_are_named(types: bytes, words: str) -> None:
    """Types that lead nowhere or in circles raise one clear error."""
    with pytest.raises(BtfError, match=words):
        Btf.parse(build(types, b"\0s\0"))


def test_every_truncation_is_an_error(raw: bytes) -> None:
    """No prefix of BTF passes for the whole."""
    for length in range(0, len(raw), 7):
        with pytest.raises(BtfError):
            Btf.parse(raw[:length])


@given(st.data())
def test_damaged_bytes_are_read_or_refused(raw: bytes, data: st.DataObject) -> None:
    """Whatever bytes are changed, the answer is types or BtfError, and it comes."""
    damaged = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))

    try:
        Btf.parse(bytes(damaged))
    except BtfError:
        pass


@given(st.binary(max_size=200))
def test_garbage_behind_a_header_is_read_or_refused(body: bytes) -> None:
    """Random types end in BtfError at worst."""
    try:
        Btf.parse(build(body, b"\0a\0"))
    except BtfError:
        pass
