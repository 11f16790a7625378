# SPDX-License-Identifier: Apache-2.0
"""Which backend a new flow gets, and what the host has for itself."""

from __future__ import annotations

import socket
from typing import Iterator

import pytest

from kubeproxy_bpf.plan.records import RecordFlags

from . import frames
from .frames import Ends
from .hooks import Hooks, Verdict
from .node import MAC, NODE, OUTSIDE, REMOTE_POD, UPLINK, Node
from .scene import CLIENT, NUMBER, SERVED, both, destination, send, serve_remote, states
from .world import CLUSTER_IP, EXTERNAL_LOCAL, NODE_PORT, PacketWorld

pytestmark = pytest.mark.root


# ---- choice ----


@both
def test_affinity_is_shared(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """A client keeps its backend by all addresses and ports (G2), in TC and XDP alike."""
    backends = [f"10.244.2.{n}" for n in range(10, 30)]
    vip = "10.96.0.1"
    world.service(
        (NODE_PORT, NODE[0], SERVED),
        (CLUSTER_IP, vip, SERVED),
        remote=backends,
        protocol=NUMBER[protocol],
        affinity_s=600,
    )
    chosen = set()
    for number in range(20):
        flow = CLIENT._replace(source_port=40000 + number)
        to = (NODE[0], vip)[number % 2]
        chosen.add(destination(send(hooks, protocol, flow.to(to, SERVED))))
    sent = frames.frame(frames.packet(protocol, CLIENT._replace(source_port=1)), MAC[UPLINK])
    chosen.add(destination(hooks.xdp(UPLINK, sent)))
    assert len(chosen) == 1
    others = {
        destination(send(hooks, protocol, CLIENT._replace(source=f"203.0.113.{n}")))
        for n in range(60, 90)
    }
    assert len(others) > 5


def test_the_choice_is_random(hooks: Hooks, world: PacketWorld) -> None:
    """Without affinity all backends get flows, of one client too (E13)."""
    backends = [f"10.244.2.{n}" for n in range(10, 14)]
    world.service((NODE_PORT, NODE[0], SERVED), remote=backends)
    seen = [
        destination(send(hooks, dialled=CLIENT._replace(source_port=port)))
        for port in range(40000, 40100)
    ]
    assert all(5 < seen.count(backend) < 60 for backend in backends)


def test_the_choice_is_consistent(hooks: Hooks, world: PacketWorld) -> None:
    """By configuration a client decides: the same choice anew, and few flows move."""
    backends = [f"10.244.2.{n}" for n in range(10, 20)]
    flags = RecordFlags.HAS_ENDPOINTS | RecordFlags.CONSISTENT
    index = world.service((NODE_PORT, NODE[0], SERVED), remote=backends, flags=flags)

    def choices() -> list[str]:
        world.forget()
        return [
            destination(send(hooks, dialled=CLIENT._replace(source_port=port)))
            for port in range(40000, 40100)
        ]

    first = choices()
    assert choices() == first and len(set(first)) == len(backends)
    members = [world.backend(address) for address in reversed(backends)]
    world.publish(index, members, flags=flags)
    assert choices() == first
    world.publish(index, members[1:], flags=flags)
    for was, now in zip(first, choices(), strict=True):
        assert now == was or was == backends[-1]


def test_a_consistent_flow_in_mid_stream(hooks: Hooks, world: PacketWorld) -> None:
    """A connection that another node has begun goes on here, to the same backend."""
    backends = [f"10.244.2.{n}" for n in range(10, 20)]
    flags = RecordFlags.HAS_ENDPOINTS | RecordFlags.CONSISTENT
    world.service((NODE_PORT, NODE[0], SERVED), remote=backends, flags=flags)
    chosen = destination(send(hooks))
    world.forget()
    assert destination(send(hooks, flags="A")) == chosen
    assert states(world) == {"TCP_NEW"}


# ---- the host's own ----


@both
def test_own_client_with_the_number_of_a_node_port(
    hooks: Hooks, world: PacketWorld, protocol: str
) -> None:
    """What the host asked for from a port that is also a node port gets its answers."""
    serve_remote(world, protocol)
    asked = Ends(NODE[0], SERVED, "192.0.2.53", 53)
    data = frames.frame(frames.packet(protocol, asked), MAC[UPLINK])
    assert hooks.egress(UPLINK, data) == (Verdict.UNSPEC, data)
    flags = {"flags": "SA"} if protocol == "TCP" else {}
    answer = frames.frame(frames.packet(protocol, asked.reply(), **flags), MAC[UPLINK])
    assert hooks.ingress(UPLINK, answer) == (Verdict.UNSPEC, answer)
    assert hooks.xdp(UPLINK, answer) == (Verdict.UNSPEC, answer)
    assert destination(send(hooks, protocol)) == REMOTE_POD[0]


@pytest.fixture
def own_socket(node: Node) -> Iterator[socket.socket]:
    """A connected socket of the host at a node port, older than the programs."""
    with node.inside():
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((NODE[0], SERVED))
    made.connect(("192.0.2.53", 53))
    yield made
    made.close()


@pytest.mark.usefixtures("own_socket")
def test_own_client_older_than_the_programs(hooks: Hooks, world: PacketWorld) -> None:
    """A connected socket gets what is sent to it, whatever its port is."""
    serve_remote(world, "UDP")
    answer = frames.frame(
        frames.packet("UDP", Ends("192.0.2.53", 53, NODE[0], SERVED)), MAC[UPLINK]
    )
    assert hooks.ingress(UPLINK, answer) == (Verdict.UNSPEC, answer)
    assert hooks.xdp(UPLINK, answer) == (Verdict.UNSPEC, answer)
    assert not world.flows()
    assert destination(send(hooks, "UDP")) == REMOTE_POD[0]


def test_nobody_speaks_for_the_host(hooks: Hooks, world: PacketWorld) -> None:
    """A packet from outside with the node's own source opens nothing: the stack judges it."""
    serve_remote(world, "TCP")
    data = frames.frame(frames.packet("TCP", CLIENT._replace(source=NODE[0])), MAC[UPLINK])
    assert hooks.ingress(UPLINK, data) == (Verdict.UNSPEC, data)
    assert not world.flows()


def test_sctp_to_another_port(hooks: Hooks, world: PacketWorld) -> None:
    """SCTP whose port would change is left alone, and counted."""
    world.service((NODE_PORT, NODE[0], SERVED), remote=[REMOTE_POD[0]], protocol=132)
    data = frames.frame(frames.packet("SCTP", CLIENT), MAC[UPLINK])
    assert hooks.ingress(UPLINK, data) == (Verdict.UNSPEC, data)
    assert world.counted() == {"SCTP_PORT": 1}


def test_statistics_by_service(hooks: Hooks, world: PacketWorld) -> None:
    """Flows and refusals are counted for their Service."""
    index = serve_remote(world, "TCP")
    empty = world.service((CLUSTER_IP, "10.96.0.6", 80), flags=0)
    local = world.service((NODE_PORT, NODE[0], 30081), remote=[REMOTE_POD[0]], flags=EXTERNAL_LOCAL)
    for port in (1, 2, 3):
        send(hooks, dialled=CLIENT._replace(source_port=port))
        send(hooks, dialled=Ends(OUTSIDE[0], port, "10.96.0.6", 80))
    send(hooks, dialled=CLIENT.to(NODE[0], 30081))
    assert [world.stats(each) for each in (index, empty, local)] == [
        (3, 0, 0),
        (0, 0, 3),
        (0, 0, 1),
    ]
