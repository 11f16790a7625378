# SPDX-License-Identifier: Apache-2.0
"""A program of somebody else for the connect hook of a cgroup, which lets everything pass."""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from kubeproxy_bpf.libbpf import BpfObject, ObjectProgram

_SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("cgroup/connect4")
int foreign_connect4(struct bpf_sock_addr *ctx)
{
    return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""
_COMMAND = ("clang", "-O2", "-g", "-target", "bpf", "-x", "c", "-c", "-", "-o")


@contextmanager
def foreign_program() -> Iterator[ObjectProgram]:
    """Compile and load it; it ends with the block."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "foreign.o"
        include = next(Path("/usr/include").glob("*-linux-gnu"), Path("/usr/include"))
        command = [*_COMMAND, str(path), f"-I{include}"]
        subprocess.run(command, input=_SOURCE, text=True, check=True)
        with BpfObject.open(path) as opened:
            opened.load()
            yield opened.programs["foreign_connect4"]
