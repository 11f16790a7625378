# SPDX-License-Identifier: Apache-2.0
"""Layers of an image as directories: each step of a build writes into one on top of the others.

A layer is kept under a key that names everything that went into it, so a step runs again only when
it, its input or something before it changed. Knows overlayfs and nothing of Dockerfiles. Used by
``builder``, in a mount namespace of its own.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, Sequence

Work = Callable[[Path], None]
"""Changes the file system that is mounted at the path."""


def key_of(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def digest(paths: Sequence[Path], below: Path) -> str:
    """Names, modes and content of files."""
    total = hashlib.sha256()
    for path in sorted(paths):
        mode = path.stat().st_mode
        total.update(f"{path.relative_to(below)}\0{mode:o}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


class LayerStore:
    """Layers by key, under one directory; ``prune`` removes those that nobody asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._used: set[str] = set()

    def make(self, key: str, below: Sequence[Path], work: Work) -> Path:
        """Return the layer that this work gives on top of others, from earlier if it is there."""
        self._used.add(key)
        layer = self._directory / key
        if not layer.exists():
            making = self._directory / f"{key}.new"
            shutil.rmtree(making, ignore_errors=True)
            (making / "files").mkdir(parents=True)
            if below:
                with mounted(below, making / "files", making) as root:
                    work(root)
            else:
                work(making / "files")
            (making / "files").rename(layer)
            shutil.rmtree(making)
        return layer

    def prune(self) -> None:
        for layer in self._directory.iterdir():
            if layer.name not in self._used:
                shutil.rmtree(layer)


@contextmanager
def mounted(below: Sequence[Path], upper: Path, scratch: Path) -> Iterator[Path]:
    """Layers as one file system whose changes go to ``upper``; ``scratch`` lies beside it."""
    work, root = scratch / "work", scratch / "root"
    for path in (work, root):
        path.mkdir(exist_ok=True)
    options = f"lowerdir={overlay_order(below)},upperdir={upper},workdir={work}"
    mount("-t", "overlay", "-o", options, "overlay", str(root))
    try:
        yield root
    finally:
        subprocess.run(["umount", "--recursive", "--lazy", str(root)], check=True)


def overlay_order(layers: Sequence[Path]) -> str:
    """The kernel wants the topmost first."""
    return ":".join(str(layer) for layer in reversed(layers))


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)
