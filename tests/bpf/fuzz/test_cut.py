# SPDX-License-Identifier: Apache-2.0
"""Packets that end before they say: every kind, cut at every place."""

from __future__ import annotations

import pytest

from tests.bpf.packet.node import MAC, NODE, OUTSIDE, UPLINK
from tests.bpf.packet.world import PacketWorld

from .corpus import SERVED, kinds
from .craft import Ends, frame, packed
from .driver import UNSPEC
from .scene import Placed

pytestmark = pytest.mark.root

HEADERS = 140
"""So much of a packet is cut byte by byte."""


@pytest.mark.parametrize("family", (0, 1), ids=("ipv4", "ipv6"))
def test_a_packet_that_ends_too_soon_is_left_alone(
    placed: Placed, world: PacketWorld, family: int
) -> None:
    """Untouched by each program, no flow, nothing counted but that it is malformed."""
    ends = Ends(packed(OUTSIDE[family]), 40000, packed(NODE[family]), SERVED)
    run = 0
    for content in (*kinds(ends), *kinds(ends.reply())):
        whole = frame(content, MAC[UPLINK])
        for length in range(min(len(whole), HEADERS)):
            cut = whole[:length]
            for (_, device), trial in placed.items():
                sent = cut if trial.header else cut[14:]
                out = trial.run(sent)
                assert out in (None, (UNSPEC, sent)), f"{trial.name} {device} {sent.hex()}"
                run += out is not None
    assert run > 20_000
    assert not world.flows()
    assert set(world.counted()) <= {"MALFORMED"}
