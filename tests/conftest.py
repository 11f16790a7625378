# SPDX-License-Identifier: Apache-2.0
"""Options of the whole test suite."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings

LONG_TEST_S = 3600
"""How long one test may take under ``--long``."""

# The bounded form is the profile ``ci`` that hypothesis brings: the same inputs in each run. The
# long one has new inputs each time; `tests.examples` says how many.
settings.register_profile(
    "soak", max_examples=10_000, deadline=None, database=None, print_blob=True
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite the expectations of tests/golden with what the model gives",
    )
    parser.addoption(
        "--long",
        action="store_true",
        help="the long form of tests that have one: full durations, a hundred times the inputs",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Before the plug-ins read their options: what ``--long`` means to them."""
    if not config.getoption("--long"):
        return
    config.option.hypothesis_profile = "soak"
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(random.SystemRandom().getrandbits(64))
    if config.option.timeout is None:
        config.option.timeout = LONG_TEST_S


def pytest_report_header(config: pytest.Config) -> str | None:
    if not config.getoption("--long"):
        return None
    return f"long form; repeat its inputs with --hypothesis-seed={config.option.hypothesis_seed}"


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether the long form is asked for."""
    return bool(request.config.getoption("--long"))
