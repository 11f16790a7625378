# SPDX-License-Identifier: Apache-2.0
"""Collects what is wrong with one object while it is compiled.

Bad cluster data never raises and never stops another object; it becomes Problem values that the
caller reports once. There are only so many of them and they are only so long, whatever an object
holds: who writes objects must not be able to flood the log. Called by the modules of the model.
"""

from __future__ import annotations

from typing import Sequence

from kubeproxy_bpf.excerpt import excerpt
from kubeproxy_bpf.model.types import Problem

MOST = 8
"""Problems of one object that are named."""


class Report:
    """Problems of one object in the order found, each once: both families may meet the same one."""

    def __init__(self, kind: str, namespace: str, name: str) -> None:
        self._object = (kind, namespace, name)
        self._problems: dict[Problem, None] = {}

    def add(self, field: str, message: str) -> None:
        self._problems[Problem(*self._object, field, excerpt(message))] = None

    def note(self, field: str, message: str) -> None:
        """Nothing is wrong, but less is done than one may think."""
        self._problems[Problem(*self._object, field, excerpt(message), note=True)] = None

    @property
    def problems(self) -> tuple[Problem, ...]:
        return the_first(tuple(self._problems))


def the_first(problems: Sequence[Problem], count: int | None = None) -> tuple[Problem, ...]:
    """As many of one object's problems as are named; the last of them says how many more there
    are, of ``count`` where not all of them were made."""
    rest = (len(problems) if count is None else count) - MOST - 1
    if rest <= 0:
        return tuple(problems)
    last = problems[MOST]
    return (*problems[:MOST], last._replace(message=f"{last.message} (and {rest} more)"))
