# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the device tests: a node in a network namespace of its own, programs, pins."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator, TypeVar

import pytest

from kubeproxy_bpf.dataplane.mounts import ensure_bpffs
from kubeproxy_bpf.dataplane.places import Hook, Place
from kubeproxy_bpf.libbpf import AttachType, BpfObject, device_chain
from tests.compiling import compile_bpf

T = TypeVar("T")

SOURCE = Path(__file__).with_name("counting.bpf.c")
TCX = {Hook.INGRESS: AttachType.TCX_INGRESS, Hook.EGRESS: AttachType.TCX_EGRESS}
PARENT = {Hook.INGRESS: "ingress", Hook.EGRESS: "egress"}


class Node:
    """A namespace, another one beside it for the far ends of wires, and a thread inside."""

    def __init__(self) -> None:
        prefix = f"kpbt-dev-{os.getpid()}"
        self.name, self.peer = f"{prefix}-n", f"{prefix}-p"
        self._thread = ThreadPoolExecutor(1)

    def build(self) -> None:
        for name in (self.name, self.peer):
            subprocess.run(["ip", "netns", "add", name], check=True)
        self.do(lambda: _enter(self.name))
        self.ip("link set lo up")

    def remove(self) -> None:
        self._thread.shutdown()
        for name in (self.name, self.peer):
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)

    def do(self, function: Callable[[], T]) -> T:
        """Run in the node."""
        return self._thread.submit(function).result(timeout=60)

    def run(self, *words: str) -> str:
        """Run a command in the node and return what it says."""
        netns = f"--net=/run/netns/{self.name}"
        done = subprocess.run(["nsenter", netns, *words], check=True, capture_output=True)
        return done.stdout.decode()

    def ip(self, line: str) -> None:
        self.run("ip", *line.split())

    def wire(self, name: str, far: str = "eth0") -> int:
        """A veth to the other namespace, up at both ends; return its number here."""
        netns = f"/run/netns/{self.peer}"
        self.ip(f"link add name {name} type veth peer name {far} netns {netns}")
        self.ip(f"link set dev {name} up")
        self.there(f"link set dev {far} up")
        return self.ifindex(name)

    def there(self, line: str) -> None:
        """``ip`` in the other namespace; its own way there wants to mount."""
        netns = f"--net=/run/netns/{self.peer}"
        subprocess.run(["nsenter", netns, "ip", *line.split()], check=True)

    def link(self, name: str) -> dict[str, Any]:
        """What the kernel tells of a device."""
        (found,) = json.loads(self.run("ip", "-j", "link", "show", "dev", name))
        return dict(found)

    def ifindex(self, name: str) -> int:
        return int(self.link(name)["ifindex"])

    def chain(self, place: Place) -> list[int]:
        """The ids of the programs of tcx at a place, in order."""
        entries = self.do(lambda: device_chain(place.ifindex, TCX[place.hook]))
        return [entry.prog_id for entry in entries]

    def filters(self, place: Place) -> list[str]:
        """The lines of the clsact filters of a place that name a program, in order."""
        lines = self.run("tc", "filter", "show", "dev", place.device, PARENT[place.hook])
        return [line for line in lines.splitlines() if "handle" in line]


def _enter(name: str) -> None:
    descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        # os.setns is of Python 3.12.
        import ctypes

        if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0x40000000):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    try:
        made.build()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled programs that count."""
    return compile_bpf(SOURCE, tmp_path_factory.mktemp("devices") / "counting.bpf.o")


@pytest.fixture
def load(image: Path) -> Iterator[Callable[[], BpfObject]]:
    """Loads the programs once more: another process of ours, or another project."""
    opened: list[BpfObject] = []

    def once_more() -> BpfObject:
        made = BpfObject.open(image)
        opened.append(made)
        made.load()
        return made

    yield once_more
    for made in opened:
        made.close()


@pytest.fixture
def pins() -> Iterator[Path]:
    """A directory for links on a BPF file system."""
    directory = Path(f"/sys/fs/bpf/kpbt-dev-{os.getpid()}")
    ensure_bpffs(directory)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)
