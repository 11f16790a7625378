# SPDX-License-Identifier: Apache-2.0
"""Runs every scenario of ``scenarios/``; ``pytest tests/golden --update-golden`` rewrites them.

An update changes the text behind ``expect`` only. Read the difference before it is committed: it is
what a change of the model does to the behaviour.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.golden.scenario import Scenario, documents

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.yaml"))
_EXPECT = "expect: |\n"


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_gives_the_expected_state(path: Path, request: pytest.FixtureRequest) -> None:
    """The state at each ``expect`` is the one written down."""
    text = path.read_text()
    actual = _play(text)
    if request.config.getoption("--update-golden"):
        path.write_text(actual)
    else:
        assert actual == text


def test_every_scenario_says_what_it_shows_and_expects_something() -> None:
    """A scenario without a rule or without an expectation proves nothing."""
    assert SCENARIOS
    for path in SCENARIOS:
        found = documents(path.read_text())
        assert found[0]["about"], path.name
        assert any("expect" in document for document in found), path.name


def _play(text: str) -> str:
    """The same text with what the model really gives behind each ``expect``."""
    scenario: Scenario | None = None
    chunks = []
    for chunk in text.split("\n---\n"):
        document = yaml.safe_load(chunk)
        if scenario is None:
            scenario = Scenario.from_header(document)
        elif "expect" in document:
            scenario.take()
            dump = scenario.dump() or "(nothing)\n"
            lines = "".join(f"  {line}\n" for line in dump.splitlines())
            chunk = chunk[: chunk.index(_EXPECT)] + _EXPECT + lines.rstrip("\n")
        else:
            scenario.apply(document)
        chunks.append(chunk.rstrip("\n"))
    return "\n---\n".join(chunks) + "\n"
