# SPDX-License-Identifier: Apache-2.0
"""The summary that ends `make test`: its totals decide whether the run counts as passed."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tools import run_tests

PASSED = '<testcase name="a"/>'
FAILED = '<testcase name="b"><failure message="x"/></testcase>'
BROKEN = '<testcase name="c"><error message="x"/></testcase>'
SKIPPED = '<testcase name="d"><skipped message="needs a kernel with nothing"/></testcase>'


@pytest.mark.parametrize(
    ("cases", "status", "totals"),
    [
        (PASSED, 0, "1 passed, 0 failed, 0 skipped"),
        (PASSED + SKIPPED, 0, "1 passed, 0 failed, 1 skipped"),
        (PASSED + FAILED, 1, "1 passed, 1 failed, 0 skipped"),
        (PASSED + BROKEN, 1, "1 passed, 1 failed, 0 skipped"),
        (SKIPPED, 1, "0 passed, 0 failed, 1 skipped"),
        ("", 1, "0 passed, 0 failed, 0 skipped"),
    ],
)
def test_totals_decide(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cases: str,
    status: int,
    totals: str,
) -> None:
    """Any failure fails the run, and so does a run in which nothing passed."""
    (tmp_path / "unit.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    monkeypatch.setattr(run_tests, "RESULTS", tmp_path)

    assert status == run_tests.summarise()
    assert totals == capsys.readouterr().out.splitlines()[-1]


def test_a_failure_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever reads the end of a long output sees which test it was."""
    (tmp_path / "bpf.xml").write_text(f"<testsuite>{FAILED}{PASSED}</testsuite>")
    monkeypatch.setattr(run_tests, "RESULTS", tmp_path)

    run_tests.summarise()

    assert capsys.readouterr().out.startswith("failed: bpf: None.b\n1 passed")


def test_a_skip_is_listed_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever reads the end of the output sees what was not tested, and why."""
    (tmp_path / "bpf.xml").write_text(f"<testsuite>{SKIPPED}</testsuite>")
    monkeypatch.setattr(run_tests, "RESULTS", tmp_path)

    run_tests.summarise()

    assert "skipped: bpf: d: needs a kernel with nothing" == capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(("again", "status"), [('<testcase name="b"/>', 0), (FAILED, 1)])
def test_the_second_attempt_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    again: str,
    status: int,
) -> None:
    """Who passes only then is named; who fails again has failed."""
    (tmp_path / "e2e.xml").write_text(f"<testsuite>{PASSED}{FAILED}</testsuite>")
    (tmp_path / "e2e-again.xml").write_text(f"<testsuite>{again}</testsuite>")
    monkeypatch.setattr(run_tests, "RESULTS", tmp_path)

    assert status == run_tests.summarise()
    unstable, totals = capsys.readouterr().out.splitlines()[-2:] if not status else ("", "")
    assert status or "unstable" in unstable
    assert status or totals == "2 passed, 0 failed, 0 skipped"


@pytest.mark.parametrize(("failing", "runs"), [(run_tests.FEW, 1), (run_tests.FEW + 1, 0)])
def test_few_failures_are_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, runs: int
) -> None:
    """Those of many files are no matter of a busy machine."""
    ran: list[list[str]] = []

    def run(command: list[str], check: bool) -> CompletedProcess[str]:
        ran.append(command)
        return CompletedProcess(command, 0)

    cases = (FAILED.replace("name", f'classname="file{n}" name') * 3 for n in range(failing))
    (tmp_path / "e2e.xml").write_text(f"<testsuite>{''.join(cases)}</testsuite>")
    monkeypatch.setattr(run_tests, "RESULTS", tmp_path)
    monkeypatch.setattr(run_tests.subprocess, "run", run)

    assert run_tests.run_again("e2e", ["tests/e2e"]) == 1 - runs
    assert len(ran) == runs
