# SPDX-License-Identifier: Apache-2.0
"""Rare combinations, each of which once went wrong."""

from __future__ import annotations

import pytest

from kubeproxy_bpf.plan.records import BackendFlags

from . import frames
from .frames import Ends
from .hooks import Hooks, Verdict
from .node import LOCAL_POD, MAC, NODE, NODE_B, POD, REMOTE_POD, UPLINK
from .scene import CLIENT, SERVED, destination, send, serve_remote, states
from .world import CLUSTER_IP, EXTERNAL_IP, NODE_PORT, PacketWorld

pytestmark = pytest.mark.root


def test_a_handshake_that_was_none(hooks: Hooks, world: PacketWorld) -> None:
    """A FIN that follows an unanswered SYN buys no time."""
    serve_remote(world, "TCP")
    send(hooks, flags="S")
    send(hooks, flags="F")
    assert states(world) == {"TCP_NEW"}


def test_a_backend_that_is_a_vip(hooks: Hooks, world: PacketWorld) -> None:
    """What was translated once is not again, if the backend's address is itself a VIP."""
    world.service((CLUSTER_IP, "10.96.0.10", 443), remote=[NODE_B[0]], port=443)
    backends = [NODE_B[0], REMOTE_POD[0]]
    world.service((EXTERNAL_IP, NODE_B[0], 443), remote=backends, port=443)
    dialled = Ends(LOCAL_POD[0], 40000, "10.96.0.10", 443)
    seen = hooks.ingress(POD, frames.frame(frames.packet("TCP", dialled), MAC[POD]))
    assert seen.verdict is Verdict.UNSPEC
    assert destination(seen) == NODE_B[0]
    assert hooks.egress(UPLINK, seen.data) == (Verdict.UNSPEC, seen.data)


def test_xdp_leaves_the_host_to_tc(hooks: Hooks, world: PacketWorld) -> None:
    """TC would look at a packet to the host again: XDP does not rewrite it."""
    world.service(
        (NODE_PORT, NODE[0], SERVED),
        local=[NODE[0]],
        port=443,
        backend_flags=BackendFlags.HOST,
    )
    data = frames.frame(frames.packet("TCP", CLIENT), MAC[UPLINK])
    assert hooks.xdp(UPLINK, data) == (Verdict.UNSPEC, data)
