# SPDX-License-Identifier: Apache-2.0
"""Whether what is mounted here outlives the process, as the namespaces tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubeproxy_bpf.dataplane.pinning import on_host

FIRST = "pid:[4026531836]"
OTHER = "pid:[4026532201]"


def proc(directory: Path, pid: str, mnt: str, init_mnt: str | None) -> Path:
    """A /proc with the namespaces of this process and of process 1."""
    for process, names in (("self", {"pid": pid, "mnt": mnt}), ("1", {"mnt": init_mnt})):
        namespaces = directory / process / "ns"
        namespaces.mkdir(parents=True)
        for name, value in names.items():
            if value is not None:
                (namespaces / name).symlink_to(value)
    return directory


@pytest.mark.parametrize(
    ("pid", "mnt", "init_mnt", "expected"),
    [
        pytest.param(FIRST, "mnt:[1]", "mnt:[1]", True, id="a program on the host"),
        pytest.param(FIRST, "mnt:[2]", "mnt:[1]", False, id="mounts of its own, or hostPID"),
        pytest.param(OTHER, "mnt:[2]", "mnt:[2]", False, id="process 1 of a container"),
        pytest.param(FIRST, "mnt:[1]", None, False, id="process 1 is not ours to look at"),
    ],
)
def test_the_host_is_where_mounts_outlive_the_process(
    pid: str, mnt: str, init_mnt: str | None, expected: bool, tmp_path: Path
) -> None:
    """Only in the first pid namespace, and in the mount namespace of its process 1."""
    assert on_host(proc(tmp_path, pid, mnt, init_mnt)) is expected
