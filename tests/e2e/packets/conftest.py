# SPDX-License-Identifier: Apache-2.0
"""The worlds in which packets are sent: all topologies, lax and strict nodes, both sources."""

from __future__ import annotations

import os
from typing import Iterator

import pytest

from tests.e2e.packets.world import MASQUERADE, PRESERVE, World, standing

WORLDS = (
    ("routed", False, MASQUERADE),
    ("routed", True, PRESERVE),
    ("bridge", True, MASQUERADE),
    ("vxlan", True, PRESERVE),
)


def title(kind: tuple[str, bool, str]) -> str:
    """Topology, nodes and the proxies' flag in a word each."""
    topology, strict, flag = kind
    return f"{topology}-{'strict' if strict else 'lax'}-{flag.rpartition('=')[2]}"


@pytest.fixture(scope="session", params=WORLDS, ids=title)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """One world after the other; tests leave it as they found it."""
    topology, strict, flag = request.param
    with standing(f"kpbt-p{os.getpid()}-{topology}", topology, [flag], strict) as made:
        yield made
