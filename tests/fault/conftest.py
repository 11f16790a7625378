# SPDX-License-Identifier: Apache-2.0
"""The stage of all fault suites, and what their load came to at the end of the run."""

from __future__ import annotations

import os
from typing import Iterator

import pytest

from tests.fault.load import report
from tests.fault.load.stage import Stage, staged
from tests.fault.load.world import World, standing


@pytest.fixture(scope="session")
def sandbox() -> Iterator[World]:
    """One for all suites whose API server is like any other."""
    with standing(f"kpbt-f{os.getpid()}") as made:
        yield made


@pytest.fixture
def stage(sandbox: World, scenario: str) -> Iterator[Stage]:
    """A stage with one Service in front of all four backends; puts everything back."""
    with staged(Stage(sandbox, scenario)) as made:
        yield made


@pytest.fixture
def bare_stage(sandbox: World, scenario: str) -> Iterator[Stage]:
    """The same for a scenario that starts a proxy of its own: whichever was there may have gone."""
    made = Stage(sandbox, scenario)
    made.keeps_proxy = True
    with staged(made):
        yield made


@pytest.fixture
def scenario(request: pytest.FixtureRequest) -> str:
    """The name under which its load is told."""
    return str(request.node.nodeid.removeprefix("tests/fault/"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was offered, scenario by scenario, and in all."""
    if report.reports:
        terminalreporter.section("offered load")
        for each in report.reports:
            terminalreporter.line(str(each))
        terminalreporter.line(report.totals())
