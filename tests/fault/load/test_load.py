# SPDX-License-Identifier: Apache-2.0
"""The harness itself: what is lost is seen, and a load that is not there is no proof."""

from __future__ import annotations

import pytest

from tests.fault.load.offered import under_load
from tests.fault.load.report import LoadNotThere

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]


@under_load
def test_nothing_is_lost_without_a_fault(stage):
    """Load from inside and outside over a change of endpoints."""
    with stage.load() as load:
        with load.changing({"web-1", "web-2"}), load.recovering():
            stage.sandbox.scale("web", 2)
            stage.until_answers({"web-1", "web-2"})


def test_an_answer_from_outside_the_set_is_seen(stage):
    """Who may answer is what the scenario says, not who does."""
    with pytest.raises(AssertionError, match="misdelivered"), stage.load(record=False) as load:
        load.backends({"web-1", "web-2", "web-3"})


def test_a_refused_connection_is_seen(stage):
    """A Service that goes away under load refuses."""
    with pytest.raises(AssertionError, match="refused"), stage.load(record=False):
        stage.sandbox.scale("web", 0)
        stage.until_answers({"ConnectionRefusedError"})


def test_too_little_load_is_no_proof(stage, monkeypatch):
    """Below the least rate nothing that was not lost counts."""
    few = [source._replace(tcp=50, udp=20) for source in stage.sources()]
    monkeypatch.setattr(stage, "sources", lambda: few)
    with pytest.raises(LoadNotThere), stage.load(record=False):
        pass
