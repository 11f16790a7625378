# SPDX-License-Identifier: Apache-2.0
"""What most tests of packets begin with: a node port, a client of the outside, one backend."""

from __future__ import annotations

import socket

import pytest

from . import frames
from .conversation import Conversation
from .frames import Ends, Packet
from .hooks import Hooks, Seen, Verdict
from .node import LOCAL_POD, MAC, NODE, OUTSIDE, REMOTE_POD, UPLINK
from .world import EXTERNAL_LOCAL, NODE_PORT, STATES, PacketWorld

NUMBER = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP, "SCTP": 132}
SERVED = 30080
PORT = 8080

families = pytest.mark.parametrize("family", (0, 1), ids=("ipv4", "ipv6"))
both = pytest.mark.parametrize("protocol", ("TCP", "UDP"))


def outer(family: int) -> Ends:
    """A client's flow to the node port."""
    return Ends(OUTSIDE[family], 40000, NODE[family], SERVED)


CLIENT = outer(0)


def serve_local(world: PacketWorld, family: int, protocol: str = "UDP") -> Ends:
    """The node port leads to a local pod, without masquerading; return the flow as it sees it."""
    world.service(
        (NODE_PORT, NODE[family], SERVED),
        local=[LOCAL_POD[family]],
        protocol=NUMBER[protocol],
        flags=EXTERNAL_LOCAL,
    )
    return outer(family).to(LOCAL_POD[family], PORT)


def serve_remote(world: PacketWorld, protocol: str = "UDP", family: int = 0) -> int:
    """The node port leads to a remote pod; return the Service's index."""
    return world.service(
        (NODE_PORT, NODE[family], SERVED), remote=[REMOTE_POD[family]], protocol=NUMBER[protocol]
    )


def conversation(hooks: Hooks, protocol: str = "TCP", dialled: Ends = CLIENT) -> Conversation:
    """A flow to the remote pod."""
    backend = (REMOTE_POD[0], PORT)
    return Conversation(hooks, protocol, dialled, backend, UPLINK, UPLINK, NODE[0], direct=True)


def established(hooks: Hooks, world: PacketWorld) -> Conversation:
    """A connection to the remote pod, after its handshake."""
    serve_remote(world, "TCP")
    flow = conversation(hooks)
    flow.ask()
    flow.answer()
    flow.ask(flags="A")
    return flow


def enter(hooks: Hooks, content: Packet) -> Seen:
    """A packet comes to the uplink."""
    return hooks.ingress(UPLINK, frames.frame(content, MAC[UPLINK]))


def send(hooks: Hooks, protocol: str = "TCP", dialled: Ends = CLIENT, **fields: object) -> Seen:
    """A packet of a client comes to the uplink."""
    return enter(hooks, frames.packet(protocol, dialled, **fields))


def untouched(seen: Seen, sent: bytes) -> bool:
    return seen == (Verdict.UNSPEC, sent)


def destination(seen: Seen) -> str:
    return frames.ends_of(frames.read(seen.data)).destination


def states(world: PacketWorld) -> set[str]:
    """The states of all flows."""
    return {STATES[flow.state] for flow in world.flows().values()}
