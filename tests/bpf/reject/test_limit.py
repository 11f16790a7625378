# SPDX-License-Identifier: Apache-2.0
"""The limit of answers."""

from __future__ import annotations

from contextlib import closing
from typing import Callable

import pytest
from scapy.layers.inet import UDP

from .conftest import Answers
from .packets import framed, header
from .places import Namespace, Wire

pytestmark = pytest.mark.root


SENT = 500


@pytest.mark.parametrize("rejects_per_s", [0, 3])
def test_no_more_is_answered_than_the_limit_allows(
    load: Callable[[int], Answers], rejects_per_s: int
) -> None:
    """A second's worth goes out at once, the rest is counted and dropped."""
    with closing(load(rejects_per_s)) as answers:
        seen = answered(answers)

        assert SENT == seen + answers.limited()
    assert rejects_per_s <= seen < SENT


def test_what_is_not_used_does_not_pile_up(load: Callable[[int], Answers]) -> None:
    """After a long silence no more is answered at once than after a second."""
    with closing(load(3)) as answers:
        answers.save_up(SENT)

        assert answered(answers) < SENT


def answered(answers: Answers) -> int:
    """How many packets are answered of many."""
    with Namespace() as namespace, Wire(namespace, True) as wire:
        with wire.attached(answers.object.programs["t_ingress"]):
            return sum(is_answered(wire) for _ in range(SENT))


def is_answered(wire: Wire) -> bool:
    wire.send(framed(wire, header(4) / UDP(sport=1, dport=2)))
    return wire.waiting() and bool(wire.receive())
