# SPDX-License-Identifier: Apache-2.0
"""What a user reads when the machine lacks something: one sentence, and exit status 1."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Iterator

import pytest

TOOLS = Path(__file__).parents[3] / "tools"
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def in_own_mounts(change: str) -> list[str]:
    """Wrap a command so that it sees changed mounts below /sys, which end with it."""
    # Of /sys alone, since the root directory need not be a mount point.
    script = f'mount --make-rprivate /sys && {change} && exec "$@"'
    return ["unshare", "--mount", "--propagation=unchanged", "sh", "-c", script, "sh"]


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def tools() -> Iterator[Path]:
    """A copy of the tools where every user may enter, unlike a checkout in root's home."""
    with tempfile.TemporaryDirectory(prefix="kpbt-") as name:
        Path(name).chmod(0o755)
        yield shutil.copytree(TOOLS, Path(name, "tools"), ignore=shutil.ignore_patterns("*.py*"))


@pytest.mark.root
def test_a_machine_with_all_passes_in_silence() -> None:
    """Where the tests run nothing is missing, and nothing is said."""
    checked = run(TOOLS / "check-machine")

    assert (0, "", "") == (checked.returncode, checked.stdout, checked.stderr)


@pytest.mark.root
@pytest.mark.parametrize(
    ("wrapper", "sentence"),
    [
        (NOBODY, "root is needed"),
        (in_own_mounts("mount -t tmpfs none /sys/kernel"), "this kernel carries no BTF"),
        (in_own_mounts("umount -a -l -t cgroup2"), "cgroup v2 is not mounted"),
        (["setpriv", "--bounding-set=-all"], "network namespaces cannot be made"),
    ],
    ids=["root", "btf", "cgroup2", "capabilities"],
)
def test_what_is_missing_is_said_in_one_sentence(
    tools: Path, wrapper: list[str], sentence: str
) -> None:
    """One line on stderr names what is missing; no trace, no second message."""
    checked = run(*wrapper, tools / "check-machine")

    assert 1 == checked.returncode
    assert checked.stderr.startswith(f"error: {sentence}")
    assert 1 == checked.stderr.count("\n")


@pytest.mark.root
def test_packages_are_named_to_whoever_may_not_install_them(tools: Path) -> None:
    """Without root a missing package is named, together with the command that installs it."""
    (tools / "packages.txt").write_text("run  shell  sh\nrun  absent  no-such-command\n")

    installed = run(*NOBODY, tools / "install-packages", "run")

    assert (1, "") == (installed.returncode, installed.stdout)
    assert "error: not installed: absent; run this as root once" in installed.stderr
    assert 0 == run(tools / "install-packages", "test").returncode
