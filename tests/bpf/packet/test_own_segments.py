# SPDX-License-Identifier: Apache-2.0
"""Segments of the host's own connections, after their flow was lost."""

from __future__ import annotations

import pytest
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

from . import frames
from .frames import Ends
from .hooks import Hooks, Verdict
from .node import MAC, NODE, REMOTE_POD, UPLINK, Node
from .world import CLUSTER_IP, PacketWorld

pytestmark = pytest.mark.root

VIP = "10.96.0.10"
SENT = Ends(NODE[0], 40000, VIP, 80)


def track(conntrack: NFCTSocket, command: str) -> None:
    """What OUTPUT makes of such a segment, or what takes it away again."""
    sent = NFCTAttrTuple(saddr=NODE[0], daddr=VIP, proto=6, sport=40000, dport=80)
    reply = NFCTAttrTuple(saddr=VIP, daddr=NODE[0], proto=6, sport=80, dport=40000)
    conntrack.entry(command, timeout=60, tuple_orig=sent, tuple_reply=reply)


@pytest.mark.parametrize("tracked", [False, True])
def test_it_is_reset(hooks: Hooks, world: PacketWorld, node: Node, tracked: bool) -> None:
    """Also where netfilter knows it: it has just seen it leave, and tracks from the middle on.
    Left alone it would go to the cluster IP by the default route, and the program would wait."""
    world.service((CLUSTER_IP, VIP, 80), remote=[REMOTE_POD[0]])
    frame = frames.frame(frames.packet("TCP", SENT, flags="PA"), MAC[UPLINK])
    with node.inside(), NFCTSocket() as conntrack:
        if tracked:
            track(conntrack, "add")
        try:
            seen = hooks.egress(UPLINK, frame)
        finally:
            if tracked:
                track(conntrack, "del")
    assert seen.verdict is Verdict.REDIRECT
    assert world.counted() == {"UNKNOWN_TCP": 1}
