# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the writer's kernel tests: maps of moderate size, a reader program, a storm."""

from __future__ import annotations

import platform
import struct
import subprocess
from pathlib import Path
from typing import Callable, Iterator

import pytest

from kubeproxy_bpf.dataplane.quarantine import Grace
from kubeproxy_bpf.dataplane.writer import Writer
from kubeproxy_bpf.libbpf import BpfMap, BpfObject

HERE = Path(__file__).parent
ROOT = Path(__file__).parents[3]
SIZES = {
    "kpb_vips": 64,
    "kpb_frontends": 64,
    "kpb_services": 64,
    "kpb_records": 8192,
    "kpb_slots": 65536,
    "kpb_backends": 65536,
}
_VISIT = struct.Struct("=16s2sBxIQQQQ")


class NoGrace(Grace):
    """What a writer without grace periods would do: proves that the reader can see it."""

    async def wait(self) -> None:
        return

    def passed(self, mark: int) -> bool:
        return True


class Kernel:
    """The loaded reader and the maps that it shares with a writer."""

    def __init__(self, image: Path) -> None:
        self.object = BpfObject.open(image)
        for name, entries in SIZES.items():
            self.object.maps[name].max_entries = entries
        self.object.load()
        self.btf = self.object.btf
        names = (*SIZES, "kpb_node_ports", "t_visit")
        self.maps: dict[str, BpfMap] = {name: self.object.maps[name].map for name in names}

    def writer(self, grace: Grace | None = None) -> Writer:
        return Writer(self.maps, self.btf, grace)

    def read(self, program: str) -> None:
        """Run a reader once; the interpreter goes on in other threads meanwhile."""
        self.object.programs[program].test_run(bytes(64))

    def ask(self, address: bytes, port: int, wait: int) -> None:
        """Say which frontend the reader visits, and how long it stays; forget what it saw."""
        visit = _VISIT.pack(address, port.to_bytes(2, "big"), 6, wait, 0, 0, 0, 0)
        self.maps["t_visit"].update(bytes(4), visit)

    def told(self) -> tuple[int, int, int]:
        """Visits, violations, and what the first violation was."""
        fields = _VISIT.unpack(self.maps["t_visit"].lookup(bytes(4)) or b"")
        return fields[4], fields[6], fields[7]

    def close(self) -> None:
        for bpf_map in self.maps.values():
            bpf_map.close()
        self.object.close()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compiles a program of this directory by its name."""

    def compile_program(name: str) -> Path:
        target = tmp_path_factory.mktemp("writer") / f"{name}.bpf.o"
        system = f"/usr/include/{platform.machine()}-linux-gnu"
        options = ["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-Wall", "-Werror"]
        include = ["-I", ROOT / "bpf/include", "-idirafter", system]
        source = HERE / f"{name}.bpf.c"
        subprocess.run(["clang", *options, *include, "-c", source, "-o", target], check=True)
        return target

    return compile_program


@pytest.fixture(scope="session")
def image(compiled: Callable[[str], Path]) -> Path:
    """The compiled reader."""
    return compiled("reader")


@pytest.fixture
def kernel(image: Path) -> Iterator[Kernel]:
    kernel = Kernel(image)
    yield kernel
    kernel.close()


@pytest.fixture
def no_grace() -> NoGrace:
    """A writer that is given this waits for no reader."""
    return NoGrace()
