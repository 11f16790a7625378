# SPDX-License-Identifier: Apache-2.0
"""The summary that ends `make test`: its totals decide whether the run counts as passed."""

from __future__ import annotations

from pathlib import Path

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


def test_a_skip_is_listed_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever reads the end of the output sees what was not tested, and why."""
    (tmp_path / "bpf.xml").write_text(f"<testsuite>{SKIPPED}</testsuite>")
    monkeypatch.setattr(run_tests, "RESULTS", tmp_path)

    run_tests.summarise()

    assert "skipped: bpf: d: needs a kernel with nothing" == capsys.readouterr().out.splitlines()[0]
