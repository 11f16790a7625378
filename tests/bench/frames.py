# SPDX-License-Identifier: Apache-2.0
"""Frames of the packet benchmark, and the program that writes them (generator.bpf.c).

A flow is a number, from which both sides derive the client's address and port. The kernel's
repetitions of one frame become different flows by the program alone.
"""

from __future__ import annotations

import platform
import struct
import subprocess
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple, Self

from kubeproxy_bpf.libbpf import BpfMap, BpfObject, ObjectProgram

FRAME_BYTES = 64
FIRST_CLIENT = "10.128.0.1"
"""In CLIENT_NETWORK of topology.py."""
FIRST_PORT, PORTS = 20000, 16384
TCP, UDP = 6, 17
SYN, ACK = 0x02, 0x10
NEXT, RANDOM = 0, 1
NOT_CALLED = 99
"""What the driver returns when it could not call the program under test."""
_ETHERTYPE_IPV4 = b"\x08\x00"
_INCLUDE = Path(__file__).parents[2] / "bpf" / "include"


class Ends(NamedTuple):
    """Where a frame goes, and what it says of the way there."""

    source_mac: bytes
    destination_mac: bytes
    address: str
    port: int


def client(flow: int) -> tuple[str, int]:
    """Address and port of a flow."""
    return str(IPv4Address(FIRST_CLIENT) + flow // PORTS), FIRST_PORT + flow % PORTS


def template(ends: Ends, protocol: int, tcp_flags: int = 0) -> bytes:
    """A frame whose checksum fields hold the plain sums of all but client address and port."""
    return build(ends, "0.0.0.0", 0, protocol, tcp_flags, template=True)


def build(
    ends: Ends,
    source: str,
    source_port: int,
    protocol: int,
    tcp_flags: int = 0,
    *,
    template: bool = False,
) -> bytes:
    """A frame of 64 bytes."""
    ports = struct.pack("!HH", source_port, ends.port)
    if protocol == TCP:
        rest = struct.pack("!IIBBHHH", 1, 1 if tcp_flags & ACK else 0, 0x50, tcp_flags, 65535, 0, 0)
        check_at = 16
    else:
        rest = struct.pack("!HH", FRAME_BYTES - 34, 0)
        check_at = 6
    segment = bytearray((ports + rest).ljust(FRAME_BYTES - 34, b"\0"))
    addresses = IPv4Address(source).packed + IPv4Address(ends.address).packed
    pseudo = addresses + struct.pack("!HH", protocol, len(segment))
    struct.pack_into("!H", segment, check_at, _check(pseudo + segment, template))
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0x4000, 64, protocol, 0)
    check = _check(header + addresses, template)
    ip = header[:10] + struct.pack("!H", check) + addresses
    return ends.destination_mac + ends.source_mac + _ETHERTYPE_IPV4 + ip + bytes(segment)


def _check(data: bytes | bytearray, template: bool) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total if template else ~total & 0xFFFF


def compile_bpf(name: str, directory: Path) -> Path:
    """Compile a program of this directory."""
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"{name}.bpf.o"
    includes = [f"-I{_INCLUDE}", "-idirafter", f"/usr/include/{platform.machine()}-linux-gnu"]
    options = ["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-std=gnu11", "-Wall", "-Werror"]
    source = Path(__file__).with_name(f"{name}.bpf.c")
    subprocess.run(["clang", *options, *includes, "-c", source, "-o", target], check=True)
    return target


class Generator:
    """generator.bpf.c, loaded."""

    def __init__(self, directory: Path) -> None:
        self._object = BpfObject.open(compile_bpf("generator", directory))
        self._object.load()
        self.frame = bytes(FRAME_BYTES)
        """As last planned; a test-run must begin with it, for the kernel judges its MAC once."""
        self.programs = self._object.programs
        self._variables = self._object.maps[".bss"].map
        offsets = {v.name: v.offset for v in self._object.btf.datasecs[".bss"].variables}
        self._plan, self._turn = offsets["plan"], offsets["turn"]
        self._wire = offsets["wire_ends"]
        self._arrived = self._object.maps["arrived"].map

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._variables.close()
        self._arrived.close()
        self._object.close()

    def plan(
        self,
        frame: bytes,
        flows: int = 1,
        first: int = 0,
        order: int = NEXT,
        vip: tuple[str, int] | None = None,
        reply: bool = False,
    ) -> None:
        """Choose the frame and its flows; ``vip`` is what the sink takes as right.

        With ``reply`` the client is the receiver of the frame.
        """
        self.frame = frame
        address, port = vip or ("0.0.0.0", 0)
        raw = struct.pack("=64s4sIII", frame, _packed(FIRST_CLIENT), flows, first, order)
        raw += _packed(address) + struct.pack("!H", port) + struct.pack("=H", reply)
        self._store({self._plan: raw, self._turn: struct.pack("=i", -1)})

    def wire(self, ends: tuple[int, int]) -> None:
        """Choose the devices between which ``wire`` passes frames."""
        self._store({self._wire: struct.pack("=II", *ends)})

    def _store(self, parts: dict[int, bytes]) -> None:
        value = bytearray(self._variables.lookup(bytes(4)) or b"")
        for offset, raw in parts.items():
            value[offset : offset + len(raw)] = raw
        self._variables.update(bytes(4), bytes(value))

    def put_under_test(self, program: ObjectProgram) -> ObjectProgram:
        """Let the driver call a program; return the driver that fits it."""
        if program.type == self.programs["drive_tc"].type:
            candidates = ("tc",)
        else:
            candidates = ("xdp", "frags")
        for kind in candidates:
            with self._object.maps[f"under_test_{kind}"].map as calls:
                if _set(calls, program.fd):
                    return self.programs[f"drive_{kind}"]
        raise RuntimeError(f"{program.name} cannot be called")

    def arrivals(self) -> tuple[int, int]:
        """Frames that the sink saw since the last call: as expected, and otherwise."""
        counts = []
        for kind in (0, 1):
            key = struct.pack("=I", kind)
            per_cpu = self._arrived.lookup(key) or b""
            counts.append(sum(memoryview(per_cpu).cast("Q")))
            self._arrived.update(key, bytes(len(per_cpu)))
        return counts[0], counts[1]


def _set(calls: BpfMap, fd: int) -> bool:
    try:
        calls.update(bytes(4), struct.pack("=I", fd))
    except OSError:
        return False  # of another kind than the driver
    return True


def _packed(address: str) -> bytes:
    return IPv4Address(address).packed
