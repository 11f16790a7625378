# SPDX-License-Identifier: Apache-2.0
"""The stage of all fault suites, and what their load came to at the end of the run."""

from __future__ import annotations

import os
from typing import Iterator

import pytest

from kubeproxy_bpf.sandbox.cluster import Sandbox
from tests.fault.load import report
from tests.fault.load.stage import Stage, staged, standing


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with standing(f"kpbt-f{os.getpid()}") as made:
        yield made


@pytest.fixture
def stage(sandbox: Sandbox, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A stage with one Service in front of all four backends; puts everything back."""
    with staged(sandbox, request.node.nodeid.removeprefix("tests/fault/")) as made:
        yield made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was offered, scenario by scenario, and in all."""
    if report.reports:
        terminalreporter.section("offered load")
        for each in report.reports:
            terminalreporter.line(str(each))
        terminalreporter.line(report.totals())
