# SPDX-License-Identifier: Apache-2.0
"""The house-style check: each rule is seen to fail once, and a clean tree passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import check_style

CLEAN = '''# SPDX-License-Identifier: Apache-2.0
"""What the module is for."""


class Thing:
    """One thing."""

    def act(self) -> None:
        """Act."""


class Other:
    """Another thing."""
'''


def faults_of(root: Path, name: str, source: str) -> list[str]:
    path = root / name
    path.parent.mkdir(parents=True)
    path.write_text(source)
    return list(check_style.faults(root))


def test_a_clean_tree_has_no_fault(tmp_path: Path) -> None:
    """A file that keeps every rule is not mentioned."""
    assert [] == faults_of(tmp_path, "kubeproxy_bpf/thing.py", CLEAN)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("# SPDX-License-Identifier: Apache-2.0\n", "", ":1: the first line is not the licence"),
        ('"""What the module is for."""', "import os", ":1: module without a docstring"),
        ('    """One thing."""\n', "", ": Thing has no docstring"),
        ('"""Act."""', "\n".join(["act()"] + ["        act()"] * 60), "the budget is 60"),
        ("act(self)", "act(self) -> None: ...\n" + "\n" * 400 + "    def b(self)", "is 400"),
    ],
)
def test_each_rule_is_enforced(tmp_path: Path, old: str, new: str, fault: str) -> None:
    """Breaking one rule yields exactly the fault that names it."""
    assert old in CLEAN

    found = faults_of(tmp_path, "kubeproxy_bpf/thing.py", CLEAN.replace(old, new))

    assert [True] == [fault in line for line in found]


def test_vague_module_names_are_refused(tmp_path: Path) -> None:
    """A module called utils is a fault however clean it is."""
    assert ["says nothing"] == [
        line.partition("' ")[2][:12] for line in faults_of(tmp_path, "tools/utils.py", CLEAN)
    ]


def test_each_test_states_its_rule(tmp_path: Path) -> None:
    """A test function without a docstring is a fault, its fixtures are not."""
    source = CLEAN + "\n\ndef fixture(): ...\n\n\ndef test_it(): ...\n"

    assert ["tests/test_it.py:19: test_it has no docstring"] == faults_of(
        tmp_path, "tests/test_it.py", source
    )


def test_records_need_no_docstring(tmp_path: Path) -> None:
    """A class of named fields speaks through its fields."""
    source = CLEAN + "\n\nclass Point(NamedTuple):\n    x: int\n"

    assert [] == faults_of(tmp_path, "kubeproxy_bpf/thing.py", source)


def test_the_one_class_of_a_module_has_its_docstring(tmp_path: Path) -> None:
    """What a module says of its only class need not be said twice."""
    source = CLEAN[: CLEAN.index("\n\nclass Other")].replace('    """One thing."""\n', "")

    assert [] == faults_of(tmp_path, "kubeproxy_bpf/thing.py", source)


def test_programs_carry_the_kernel_licence(tmp_path: Path) -> None:
    """C under bpf/ needs the dual licence in its first line."""
    assert 1 == len(faults_of(tmp_path, "bpf/lib/addr.h", "#pragma once\n"))
