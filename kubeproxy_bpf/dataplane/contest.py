# SPDX-License-Identifier: Apache-2.0
"""Decides when a program that is no longer first at its hook takes the first place back.

To move to the front costs a second copy of it, or, where there is none, connections: until the
kernel's grace period is over the device has no program of ours. So the first loss is made good at
once, and whoever comes back meets more and more patience: two who both want to be first must not
go on for ever. Behind others ours still gets what they let pass. Does not look at devices; asked by
``devices`` at each of its looks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, Collection

import structlog

from kubeproxy_bpf.dataplane.places import Place

_log = structlog.get_logger(__name__)

_SHORTEST_S = 10.0
_LONGEST_S = 3600.0
_SETTLED_S = 3600.0
"""Who was first for so long has no rival: the next loss is a first one."""

Clock = Callable[[], float]


@dataclass
class _Standing:
    first_since: float
    patience_s: float = 0.0
    """How long the next loss is borne."""
    due: float | None = None
    """When the present loss is made good; None while ours is first."""


class FirstPlaces:
    """The first places that were lost, and how patient ours has become there."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._standings: dict[Place, _Standing] = {}

    def held(self, place: Place) -> None:
        """Ours is first, or about to be."""
        standing = self._standings.get(place)
        if standing is not None and standing.due is not None:
            standing.due, standing.first_since = None, self._clock()

    def take_back(self, place: Place) -> bool:
        """Ours is not first: say whether it shall be now."""
        now = self._clock()
        standing = self._standings.setdefault(place, _Standing(now))
        if standing.due is None:
            if now - standing.first_since >= _SETTLED_S:
                standing.patience_s = 0.0
            standing.due = now + standing.patience_s
            if standing.patience_s:
                _log.warning("program_not_first", place=str(place), borne_s=standing.patience_s)
        if now < standing.due:
            return False
        standing.due, standing.first_since = None, now
        standing.patience_s = min(max(2 * standing.patience_s, _SHORTEST_S), _LONGEST_S)
        return True

    def bears(self, place: Place) -> bool:
        """Whether it is known that ours is not first, and not yet time to do something about it."""
        standing = self._standings.get(place)
        return standing is not None and standing.due is not None and self._clock() < standing.due

    def keep(self, places: Collection[Place]) -> None:
        """Forget all others."""
        self._standings = {p: each for p, each in self._standings.items() if p in places}
