# SPDX-License-Identifier: Apache-2.0
"""Names a difference between the maps and what the planner believes; values only.

Made by ``audit``, taken in by ``Planner.doubt``.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

from kubeproxy_bpf.model.types import ServicePortId


class Kind(Enum):
    MISSING = "missing"
    EXTRA = "extra"
    DIFFERS = "differs"


class Finding(NamedTuple):
    """One entry that is not as the planner left it."""

    map: str
    key: Any
    """As in ``Dump``; of slots the first position that differs."""
    kind: Kind
    held: Any
    """What stands there; None: nothing."""
    owner: ServicePortId | None = None
    """The service port that it is for; None: not for one, or nobody knows."""
    service: int = 0
    """The service index, where it is about services, records and slots."""
