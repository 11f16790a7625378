# SPDX-License-Identifier: Apache-2.0
"""What of the arrays somebody else wrote over, until a plan publishes it anew.

A record, slot or backend that a program may be reading is not repaired where it stands: whoever has
it gets another one, and one store of its word leads there. What finds no room stays as it is; the
next audit finds it again. Called by the planner alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubeproxy_bpf.plan.findings import Finding
from kubeproxy_bpf.plan.records import Backend
from kubeproxy_bpf.plan.writes import Plan

if TYPE_CHECKING:
    from kubeproxy_bpf.plan.planner import Planner


class Doubts:
    """Service indexes and backend ids."""

    def __init__(self) -> None:
        self._words: set[int] = set()
        self._indexes: set[int] = set()
        self._backends: dict[int, Backend] = {}

    def __bool__(self) -> bool:
        return bool(self._words or self._indexes or self._backends)

    def add(self, finding: Finding) -> None:
        """Take note of one."""
        if finding.map == "backends":
            self._backends[finding.key] = finding.held
        elif finding.map == "services":
            self._words.add(finding.service)
        else:
            self._indexes.add(finding.service)

    def settle(self, planner: Planner, plan: Plan) -> None:
        """Publish all of it anew, as far as there is room."""
        if not self:
            return
        services = planner.services
        moved = {n for n, held in self._backends.items() if services.renew_backend(n, held, plan)}
        if moved:
            self._indexes.update(_who_has(planner, moved))
        for index in sorted(self._indexes):
            state = planner.state(index)
            published = services.republish(state, plan) if state is not None else "nothing"
            if not isinstance(published, str):
                planner.replace(published)
        services.free_unused_backends()
        for index in sorted(self._words - plan.services.keys()):
            state = planner.state(index)
            if state is not None:
                services.republish_word(state, plan)
            else:
                services.retire_word(index, plan)
        self._words.clear()
        self._indexes.clear()
        self._backends.clear()


def _who_has(planner: Planner, numbers: set[int]) -> list[int]:
    last = planner.services.last_index
    states = (planner.state(index) for index in range(1, last + 1))
    return [s.index for s in states if s is not None and not numbers.isdisjoint(s.ids)]
