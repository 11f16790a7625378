# SPDX-License-Identifier: Apache-2.0
"""The limit of answers."""

from __future__ import annotations

from typing import Callable

import pytest
from scapy.layers.inet import UDP

from .conftest import Answers
from .packets import framed, header
from .places import Namespace, Wire

pytestmark = pytest.mark.root


@pytest.mark.parametrize(("rejects_per_s", "at_least"), [(0, 0), (3, 3)])
def test_no_more_is_answered_than_the_limit_allows(
    load: Callable[[int], Answers], rejects_per_s: int, at_least: int
) -> None:
    """A second's worth goes out at once, the rest is counted and dropped."""
    answers = load(rejects_per_s)
    sent = 500
    with Namespace() as namespace, Wire(namespace, True) as wire:
        with wire.attached(answers.object.programs["t_ingress"]):
            seen = sum(answered(wire) for _ in range(sent))
    limited = answers.limited()
    answers.close()

    assert sent == seen + limited
    assert limited > 0
    assert at_least <= seen


def answered(wire: Wire) -> bool:
    wire.send(framed(wire, header(4) / UDP(sport=1, dport=2)))
    return wire.waiting() and bool(wire.receive())
