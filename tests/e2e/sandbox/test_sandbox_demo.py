# SPDX-License-Identifier: Apache-2.0
"""The demo shows what it promises, and its exit code tells the truth."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from kubeproxy_bpf.sandbox import demo
from kubeproxy_bpf.sandbox.expect import REFUSED, each_of
from kubeproxy_bpf.sandbox.probe import Target
from tests.e2e.sandbox.conftest import PREFIX, traces

pytestmark = pytest.mark.root


def test_demo_shows_only_expected_lines(
    clean_machine: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """All connections of the demo go where they should, and nothing is left behind."""
    assert demo.run(f"{PREFIX}-demo", "vxlan") == 0
    shown = capsys.readouterr().out
    assert "✗" not in shown
    assert f"All {shown.count('✓')} lines were as expected." in shown
    assert "Left behind: nothing." in shown
    assert traces() == clean_machine


class Wrong:
    """Stands in for a sandbox in which the wrong pod answers."""

    def run_in(self, place: str, function: Any) -> Counter[str]:
        return Counter({"web-9": 3})


def test_a_wrong_answer_is_marked_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """A line that is not as expected shows a cross and what was expected, and counts."""
    show = demo.Show(Wrong())  # type: ignore[arg-type]
    target = Target("TCP", "10.96.0.1", 80)
    show._show(demo.Line("shell-1", target, each_of("web-1")))
    show._show(demo.Line("shell-1", target, REFUSED))
    shown = capsys.readouterr().out.splitlines()
    assert "web-9 3×" in shown[0] and shown[0].endswith("✗ expected only web-1")
    assert shown[1].endswith("✗ expected connection refused")
    assert (show.lines, show.failures) == (2, 2)
