# SPDX-License-Identifier: Apache-2.0
"""What the Dockerfile says, without executing it; tests/image executes it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pathspec
import pytest
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[3]
BUILD_ONLY = {
    "clang",
    "llvm",
    "make",
    "bpftool",
    "libbpf-dev",
    "python3-dev",
    "python3-venv",
    "gcc",
}
WORD = re.compile(r"[a-z0-9][a-z0-9.+-]*")

Step = dict[str, str]


@pytest.fixture(scope="module")
def stages() -> list[list[Step]]:
    """The instructions of each stage, without comments."""
    with (ROOT / "Dockerfile").open("rb") as file:
        steps = [step for step in DockerfileParser(fileobj=file).structure]
    split: list[list[Step]] = []
    for step in steps:
        if step["instruction"] == "FROM":
            split.append([])
        if split and step["instruction"] != "COMMENT":
            split[-1].append(step)
    return split


def values(stage: list[Step], instruction: str) -> list[str]:
    return [step["value"] for step in stage if step["instruction"] == instruction]


def test_a_linter_of_dockerfiles_finds_nothing() -> None:
    """hadolint, which runs shellcheck over each RUN too, has nothing to say."""
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (0, "") == (done.returncode, done.stdout + done.stderr)


def test_compilers_stay_in_the_build_stage(stages: list[list[Step]]) -> None:
    """What the final stage installs is none of what compiles; both stages have one base."""
    build, final = stages
    assert {"clang", "make", "bpftool"} <= set(WORD.findall(" ".join(values(build, "RUN"))))
    assert not BUILD_ONLY & set(WORD.findall(" ".join(values(final, "RUN"))))
    assert {"${BASE}"} == {value.split()[0] for value in values(build + final, "FROM")}


def test_the_program_is_where_the_stock_daemonset_calls_it(stages: list[list[Step]]) -> None:
    """kubeadm's command names /usr/local/bin/kube-proxy; the entry point agrees with it."""
    (entry,) = values(stages[-1], "ENTRYPOINT")
    assert ["/usr/local/bin/kube-proxy"] == json.loads(entry)
    assert "/usr/local/bin/kube-proxy" in " ".join(values(stages[-1], "RUN"))


def test_no_architecture_is_named(stages: list[list[Step]]) -> None:
    """One Dockerfile serves every platform."""
    text = " ".join(step["value"] for stage in stages for step in stage)
    assert not re.search(r"x86|amd64|aarch64|arm64|ppc64|s390", text)


def test_labels_are_those_of_the_oci_specification() -> None:
    """Title, licences, version and revision stand under the names that registries read."""
    with (ROOT / "Dockerfile").open("rb") as file:
        labels = DockerfileParser(fileobj=file).labels
    prefix = "org.opencontainers.image."
    assert all(name.startswith(prefix) for name in labels)
    assert {"title", "description", "licenses", "version", "revision"} <= {
        name.removeprefix(prefix) for name in labels
    }


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("bpf/kpb_object.bpf.c", True),
        ("kubeproxy_bpf/cli.py", True),
        ("setup.cfg", True),
        ("constraints.txt", True),
        ("kubeproxy_bpf/obj/kube_proxy.bpf.o", False),
        ("kubeproxy_bpf/__pycache__/cli.cpython-311.pyc", False),
        ("tests/conftest.py", False),
        (".git/config", False),
        (".venv/bin/python", False),
    ],
)
def test_only_sources_are_sent_to_the_build(path: str, sent: bool) -> None:
    """Nothing that was built before, and nothing private, can get into an image."""
    ignored = pathspec.PathSpec.from_lines(
        "gitignore", (ROOT / ".dockerignore").read_text().splitlines()
    )
    assert sent is not ignored.match_file(path)
