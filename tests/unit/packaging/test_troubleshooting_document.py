# SPDX-License-Identifier: Apache-2.0
"""docs/troubleshooting.md: what it tells operators to look for is what the program says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kubeproxy_bpf.dataplane.cgrouproot import Soundness

ROOT = Path(__file__).parents[3]
_NAMED = re.compile(r"`([a-z]+(?:_[a-z0-9]+)+)(?:\{[^`]*\})?[ `]")


def said_by_the_program() -> set[str]:
    """Events of the log, names of metrics, reasons of the programs."""
    source = "\n".join(path.read_text() for path in (ROOT / "kubeproxy_bpf").rglob("*.py"))
    # One event is made of a name and an ending.
    source = source.replace("{what}_port_taken", 'health_port_taken", "metrics_port_taken')
    source += "".join(f" cgroup_root_{each.value}" for each in Soundness)
    source = source.replace('f"{_PREFIX}', '"audit_')
    header = (ROOT / "bpf" / "include" / "kpb_types.h").read_text()
    reasons = {name.lower() for name in re.findall(r"COUNT_(\w+) = \d+", header)}
    return reasons | set(re.findall(r"\b[a-z]+(?:_[a-z0-9]+)+\b", source))


@pytest.fixture(scope="module")
def named() -> set[str]:
    return set(_NAMED.findall((ROOT / "docs" / "troubleshooting.md").read_text()))


def test_every_line_and_metric_that_is_named_exists(named: set[str]) -> None:
    """Nobody searches a log for what no program writes."""
    assert len(named) > 40
    known = {bare(name) for name in said_by_the_program()}
    assert set() == {name for name in named if bare(name) not in known}


def bare(metric: str) -> str:
    """A metric as the code names it, and as the text may abbreviate it."""
    return metric.removeprefix("kubeproxy_bpf_").removesuffix("_total")


def test_a_name_that_nobody_says_is_found() -> None:
    """The check can fail."""
    assert "bind_was_refused" not in said_by_the_program()
