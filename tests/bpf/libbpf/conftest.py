# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the binding's kernel tests: a compiled object, a cgroup, a BPF file system."""

from __future__ import annotations

import gc
import os
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from kubeproxy_bpf.libbpf import BpfObject
from tests.compiling import compile_bpf

SOURCE = Path(__file__).with_name("tiny.bpf.c")


def descriptors() -> set[tuple[str, str]]:
    """List the open descriptors of this process and what they stand for."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.add((entry, os.readlink(f"/proc/self/fd/{entry}")))
        except FileNotFoundError:
            continue  # the directory that was being read
    return found


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    """Every test ends with the descriptors that it began with, without help from the collector."""
    gc.collect()
    gc.disable()
    before = descriptors()
    yield
    left = descriptors() - before
    gc.enable()
    assert not left


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled object."""
    return compile_bpf(SOURCE, tmp_path_factory.mktemp("libbpf") / "tiny.bpf.o")


@pytest.fixture
def opened(image: Path) -> Iterator[BpfObject]:
    """The object, not loaded yet."""
    with BpfObject.open(image) as bpf_object:
        yield bpf_object


@pytest.fixture
def loaded(opened: BpfObject) -> BpfObject:
    """The object, loaded."""
    opened.load()
    return opened


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A BPF file system of the test's own."""
    path = tmp_path / "bpffs"
    path.mkdir()
    subprocess.run(["mount", "-t", "bpf", "kpbt-bpf", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def cgroup2_mount() -> Path:
    """Find where the unified hierarchy is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == "cgroup2":
            return Path(before.split()[4])
    pytest.skip("no cgroup2 file system is mounted")


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A new, empty cgroup."""
    path = cgroup2_mount() / f"kpbt-libbpf-{os.getpid()}"
    path.mkdir()
    try:
        yield path
    finally:
        path.rmdir()


@pytest.fixture
def cgroup_fd(cgroup: Path) -> Iterator[int]:
    """A descriptor of the new cgroup."""
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)
