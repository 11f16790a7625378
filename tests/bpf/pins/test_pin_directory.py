# SPDX-License-Identifier: Apache-2.0
"""The choice between pins and none, in real namespaces for mounts and processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mounting import own_mounts

pytestmark = pytest.mark.root

CONTAINER = [*own_mounts(), "--pid", "--fork", "--mount-proc"]
HOST_PID = own_mounts()
WITHOUT_BPFFS = (
    'while umount -l -t bpf -a 2>/dev/null && grep -q " bpf bpf " /proc/mounts; do :; done'
)
WITH_BPFFS = "mount -t bpf kpbt-bpf {path}"
ASK = """
import sys
from pathlib import Path
from kubeproxy_bpf.dataplane.mounts import has_bpffs
from kubeproxy_bpf.dataplane.pinning import pin_directory
path = Path(sys.argv[2])
chosen = pin_directory(sys.argv[1], path)
print("RESULT", chosen == path, chosen is None, has_bpffs(path))
"""


def ask(namespaces: list[str], prepare: str, wish: str, path: Path) -> list[str]:
    """What is chosen inside: whether the path is, whether none is, and whether a bpffs is there."""
    script = f'{prepare.format(path=path)}; exec "$@"'
    argv = [*namespaces, "sh", "-c", script, "sh", sys.executable, "-c", ASK, wish, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    return line.split()[1:]


PIN, NONE = ["True", "False", "True"], ["False", "True", "False"]


@pytest.mark.parametrize("namespaces", [CONTAINER, HOST_PID], ids=["container", "hostPID"])
def test_a_container_without_the_hosts_bpffs_does_not_pin(
    namespaces: list[str], tmp_path: Path
) -> None:
    """What it would mount ends with it; nothing is mounted in vain."""
    assert ask(namespaces, WITHOUT_BPFFS, "auto", tmp_path) == NONE


@pytest.mark.parametrize("namespaces", [CONTAINER, HOST_PID], ids=["container", "hostPID"])
def test_a_bpffs_that_was_there_before_is_used(namespaces: list[str], tmp_path: Path) -> None:
    """It came from outside, as a hostPath volume does."""
    assert ask(namespaces, WITH_BPFFS, "auto", tmp_path) == PIN


def test_the_operator_decides(tmp_path: Path) -> None:
    """ "on" mounts one where there is none, "off" leaves one alone that is there."""
    assert ask(CONTAINER, WITHOUT_BPFFS, "on", tmp_path) == PIN
    assert ask(CONTAINER, WITH_BPFFS, "off", tmp_path) == ["False", "True", "True"]
