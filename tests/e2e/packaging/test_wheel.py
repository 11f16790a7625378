# SPDX-License-Identifier: Apache-2.0
"""What `pip install .` installs: a package that finds its BPF objects without the sources."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = ("kubeproxy_bpf", "bpf", "setup.py", "setup.cfg", "README.md", "LICENSE", "MANIFEST.in")
OBJECTS = {"kubeproxy_bpf/obj/kube_proxy.bpf.o", "kubeproxy_bpf/obj/sock_destroy.bpf.o"}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the sources without anything built."""
    copy = tmp_path / "sources"
    copy.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("*.o", ".output", "__pycache__")
            shutil.copytree(source, copy / name, ignore=ignored)
        else:
            shutil.copy(source, copy / name)
    return copy


def pip(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_carries_the_objects(sources: Path, tmp_path: Path) -> None:
    """A wheel built from bare sources compiles the programs, and finds them once installed."""
    built = pip("wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, sources)
    assert 0 == built.returncode, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert OBJECTS <= set(zipfile.ZipFile(wheel).namelist())

    target = tmp_path / "site"
    installed = pip("install", "--no-deps", "--no-index", "--target", target, wheel)
    assert 0 == installed.returncode, installed.stdout + installed.stderr
    lookup = (
        "from importlib.resources import files; import kubeproxy_bpf as package;"
        "print(package.__file__);"
        "print((files(package) / 'obj' / 'kube_proxy.bpf.o').read_bytes()[:4])"
    )
    found = subprocess.run(
        [sys.executable, "-S", "-c", lookup],
        cwd=tmp_path,
        env={"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [f"{target}/kubeproxy_bpf/__init__.py", r"b'\x7fELF'"] == found.stdout.split()


def test_a_missing_compiler_is_named(sources: Path, tmp_path: Path) -> None:
    """Without clang the build stops with one sentence that names it."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "make").symlink_to("/usr/bin/make")

    built = pip("wheel", "--no-deps", "--no-build-isolation", sources, PATH=str(tools))

    assert 0 != built.returncode
    assert "clang is needed to compile the BPF programs" in built.stdout + built.stderr
