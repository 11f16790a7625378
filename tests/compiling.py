# SPDX-License-Identifier: Apache-2.0
"""Compiles BPF programs that only tests have."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

_SYSTEM = f"-I/usr/include/{platform.machine()}-linux-gnu"
_OPTIONS = ("-target", "bpf", "-g", "-O2", "-Wall", "-Werror", _SYSTEM)


def compile_bpf(source: Path, target: Path) -> Path:
    """Make an object of a C file; clang says what is wrong with it."""
    subprocess.run(["clang", *_OPTIONS, "-c", source, "-o", target], check=True)
    return target
