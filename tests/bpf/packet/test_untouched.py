# SPDX-License-Identifier: Apache-2.0
"""Packets of no concern go on as they came, byte for byte."""

from __future__ import annotations

import pytest

from . import frames
from .frames import Ends
from .hooks import Hooks, Verdict
from .node import LOCAL_POD, MAC, OUTSIDE, OUTSIDE_L3, POD, TUNNEL, UPLINK
from .world import PacketWorld

pytestmark = pytest.mark.root


@pytest.mark.parametrize("family", (0, 1), ids=("ipv4", "ipv6"))
@pytest.mark.parametrize("protocol", ("TCP", "UDP", "SCTP"))
def test_other_destinations(hooks: Hooks, world: PacketWorld, family: int, protocol: str) -> None:
    """A packet that is for nobody we serve passes all hooks, and leaves no trace (E9)."""
    ends = Ends(OUTSIDE[family], 40000, LOCAL_POD[family], 80)
    content = frames.packet(protocol, ends)
    arriving, leaving = frames.frame(content, MAC[UPLINK]), frames.frame(content, MAC[POD])
    for seen, sent in (
        (hooks.ingress(UPLINK, arriving), arriving),
        (hooks.xdp(UPLINK, arriving), arriving),
        (hooks.egress(POD, leaving), leaving),
    ):
        assert (seen.verdict, seen.data) == (Verdict.UNSPEC, sent)
    bare = frames.raw(frames.packet(protocol, ends.by(OUTSIDE_L3[family], 40000)))
    for seen in (hooks.ingress_l3(TUNNEL, bare), hooks.egress_l3(TUNNEL, bare)):
        assert (seen.verdict, seen.data) == (Verdict.UNSPEC, bare)
    assert not world.flows() and not world.counted()
