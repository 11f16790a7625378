# SPDX-License-Identifier: Apache-2.0
"""What the demo expects of a number of connections: a sentence and a check of the answers."""

from __future__ import annotations

from collections import Counter
from typing import Callable, NamedTuple


class Expectation(NamedTuple):
    """In words, and as a check."""

    text: str
    holds: Callable[[Counter[str]], bool]


def each_of(*names: str) -> Expectation:
    """Every one of these answers, and nobody else does.

    Among four pods, sixty random picks miss one less than once in five million runs.
    """
    text = f"only {names[0]}" if len(names) == 1 else f"each of {', '.join(names)}"
    return Expectation(text, lambda answers: set(answers) == set(names))


def always_one_of(*names: str) -> Expectation:
    """One and the same answers every time."""
    text = "always the same pod"
    return Expectation(text, lambda answers: len(answers) == 1 and set(answers) <= set(names))


def always(failure: str, text: str) -> Expectation:
    """Every connection ends the same way."""
    return Expectation(text, lambda answers: set(answers) == {failure})


REFUSED = always("refused", "connection refused")
