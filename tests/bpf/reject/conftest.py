# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the answers: the library in a small object, and devices whose other end is ours."""

from __future__ import annotations

import platform
import struct
import subprocess
from ipaddress import ip_address
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

import pytest

from kubeproxy_bpf.libbpf import BpfObject, possible_cpus

from .places import Namespace, Wire

SOURCE = Path(__file__).with_name("answers.bpf.c")
BPF = Path(__file__).parents[3] / "bpf"
VIPS = ("198.51.100.7", "2001:db8:77::7")
KEPT = ("kpb_counters", "kpb_reject_limit", "t_orders")
REJECTS_LIMITED = 29
FIRST = bytes(4)


class Change(NamedTuple):
    """What a packet of a flow becomes."""

    source: str
    source_port: int
    destination: str
    destination_port: int


class Answers:
    """The loaded programs and what the test tells them."""

    def __init__(self, image: Path, rejects_per_s: int) -> None:
        self.object = BpfObject.open(image)
        for name, item in self.object.maps.items():
            if name not in KEPT and not name.startswith("."):
                item.max_entries = 16 if name != "kpb_sock_state" else 0
        self._configure("rejects_per_s", rejects_per_s)
        self.object.load()
        self._orders = self.object.maps["t_orders"].map
        self._counters = self.object.maps["kpb_counters"].map
        self.order()

    def order(self, *, mtu: int = 0, change: Change | None = None) -> None:
        """Say what becomes of packets to a VIP (with an MTU: too big), and of ICMP errors."""
        addresses = b"".join(map(mapped, VIPS))
        flow = bytes(64)
        if change:
            ends = mapped(change.source) + mapped(change.destination)
            ports = struct.pack(">HH", change.source_port, change.destination_port)
            flow = bytes(8) + ends + ports + bytes(20)
        self._orders.update(FIRST, addresses + flow + struct.pack("=II", mtu, 0))

    def untranslated(self) -> int:
        value = self._orders.lookup(FIRST) or b""
        return int(struct.unpack("=I", value[-4:])[0])

    def limited(self) -> int:
        """How many answers the limit held back."""
        value = self._counters.lookup(struct.pack("=I", REJECTS_LIMITED)) or b""
        return sum(struct.unpack(f"={possible_cpus()}Q", value))

    def save_up(self, count: int) -> None:
        """Let every processor believe that it has so many answers to give."""
        bucket = struct.pack("=QQ", 0, count * 1_000_000_000)
        with self.object.maps["kpb_reject_limit"].map as limit:
            limit.update(FIRST, bucket * possible_cpus())

    def close(self) -> None:
        self._orders.close()
        self._counters.close()
        self.object.close()

    def _configure(self, member: str, value: int) -> None:
        btf = self.object.btf
        base = next(v for v in btf.datasecs[".rodata"].variables if v.name == "kpb_config").offset
        offset = (
            base + next(m for m in btf.structs["kpb_config"].members if m.name == member).offset
        )
        self.object.maps[".rodata"].initial_value[offset : offset + 4] = struct.pack("=I", value)


def mapped(address: str) -> bytes:
    """16 bytes, IPv4 as v4-mapped."""
    parsed = ip_address(address)
    return parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled object. Of the headers it uses only a part."""
    target = tmp_path_factory.mktemp("reject") / "answers.bpf.o"
    options = "-target bpf -mcpu=v3 -g -O2 -std=gnu11 -Wall -Wextra -Werror -Wno-unused-function"
    system = f"/usr/include/{platform.machine()}-linux-gnu"
    include = ["-I", BPF / "include", "-I", BPF / "lib", "-idirafter", system]
    subprocess.run(["clang", *options.split(), *include, "-c", SOURCE, "-o", target], check=True)
    return target


@pytest.fixture(scope="session")
def load(image: Path) -> Callable[[int], Answers]:
    return lambda rejects_per_s: Answers(image, rejects_per_s)


@pytest.fixture(scope="module")
def answers(load: Callable[[int], Answers]) -> Iterator[Answers]:
    made = load(1000000)
    yield made
    made.close()


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


@pytest.fixture(scope="module", params=["ethernet", "ip"])
def wire(request: pytest.FixtureRequest, namespace: Namespace, answers: Answers) -> Iterator[Wire]:
    """A device with the ingress program, once of each kind."""
    ethernet = request.param == "ethernet"
    program = answers.object.programs["t_ingress" if ethernet else "t_ingress_l3"]
    with Wire(namespace, ethernet) as made, made.attached(program):
        yield made
