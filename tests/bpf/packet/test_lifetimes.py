# SPDX-License-Identifier: Apache-2.0
"""Lives of flows: states, time-outs, ends, and what happens to packets that belong to none."""

from __future__ import annotations

import socket
from typing import Iterator

import pytest

from kubeproxy_bpf.plan.records import RecordFlags, VipFlags

from . import frames
from .conversation import Conversation
from .frames import Ends
from .hooks import Hooks, Seen, Verdict
from .node import LOCAL_POD, MAC, NODE, OUTSIDE, POD, REMOTE_POD, UPLINK, Node
from .world import (
    CLUSTER_IP,
    EXTERNAL_LOCAL,
    LOAD_BALANCER,
    NODE_PORT,
    STATES,
    PacketWorld,
)

pytestmark = pytest.mark.root

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
NUMBER = {"TCP": TCP, "UDP": UDP}
SERVED = 30080
CLIENT = Ends(OUTSIDE[0], 40000, NODE[0], SERVED)
BACKEND = (REMOTE_POD[0], 8080)
OTHER_POD = "10.244.2.11"

both = pytest.mark.parametrize("protocol", ("TCP", "UDP"))


def serve(world: PacketWorld, protocol: str = "TCP") -> int:
    return world.service(
        (NODE_PORT, NODE[0], SERVED), remote=[REMOTE_POD[0]], protocol=NUMBER[protocol]
    )


def conversation(hooks: Hooks, protocol: str = "TCP", outer: Ends = CLIENT) -> Conversation:
    """A flow to the remote backend."""
    return Conversation(hooks, protocol, outer, BACKEND, UPLINK, UPLINK, NODE[0], direct=True)


def states(world: PacketWorld) -> set[str]:
    return {STATES[flow.state] for flow in world.flows().values()}


def send(hooks: Hooks, protocol: str = "TCP", outer: Ends = CLIENT, **fields: object) -> Seen:
    return hooks.ingress(
        UPLINK, frames.frame(frames.packet(protocol, outer, **fields), MAC[UPLINK])
    )


def destination(seen: Seen) -> str:
    return frames.ends_of(frames.read(seen.data)).destination


# ---- states ----


def test_a_tcp_connection(hooks: Hooks, world: PacketWorld) -> None:
    """Both partners follow the handshake and the end of a connection."""
    serve(world)
    flow = conversation(hooks)
    flow.ask(flags="S")
    assert states(world) == {"TCP_NEW"}
    flow.ask(flags="S")
    assert states(world) == {"TCP_NEW"}
    flow.answer(flags="SA")
    assert states(world) == {"TCP_REPLIED"}
    flow.ask(flags="A")
    assert states(world) == {"TCP_ESTABLISHED"}
    flow.answer(flags="PA")
    assert states(world) == {"TCP_ESTABLISHED"}
    flow.answer(flags="FA")
    assert states(world) == {"TCP_CLOSING"}
    flow.ask(flags="A")
    assert states(world) == {"TCP_CLOSING"}
    flow.ask(flags="FA")
    assert states(world) == {"TCP_TIME_WAIT"}
    flow.answer(flags="A")
    assert states(world) == {"TCP_TIME_WAIT"}
    assert world.counted() == {"FLOW_NEW": 1}


def test_a_repeated_fin_is_one(hooks: Hooks, world: PacketWorld) -> None:
    """A FIN that is sent twice by one side leaves the other one open."""
    serve(world)
    flow = conversation(hooks)
    flow.ask()
    flow.answer()
    flow.ask(flags="A")
    flow.ask(flags="FA")
    flow.ask(flags="FA")
    flow.answer(flags="PA")
    assert states(world) == {"TCP_CLOSING"}


def test_a_reset(hooks: Hooks, world: PacketWorld) -> None:
    """A reset ends a connection, unless the other side goes on: then nobody believed it."""
    serve(world)
    flow = conversation(hooks)
    flow.ask()
    flow.answer()
    flow.ask(flags="A")
    flow.answer(flags="R")
    assert states(world) == {"TCP_CLOSED"}
    flow.ask(flags="A")
    assert states(world) == {"TCP_ESTABLISHED"}


def test_a_refused_connection(hooks: Hooks, world: PacketWorld) -> None:
    """The reset of a backend that nobody listens on reaches the client."""
    serve(world)
    flow = conversation(hooks)
    flow.ask()
    flow.answer(flags="RA")
    assert states(world) == {"TCP_CLOSED"}


def test_a_udp_flow(hooks: Hooks, world: PacketWorld) -> None:
    """A datagram, and its answer, which makes the flow live longer."""
    serve(world, "UDP")
    flow = conversation(hooks, "UDP")
    flow.ask()
    flow.ask()
    assert states(world) == {"UDP_NEW"}
    flow.answer()
    assert states(world) == {"UDP_REPLIED"}


@both
def test_deadlines_move(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """Each packet of a settled flow puts off its end."""
    serve(world, protocol)
    flow = conversation(hooks, protocol)
    more = {"flags": "A"} if protocol == "TCP" else {}
    flow.ask()
    flow.answer()
    flow.ask(**more)
    ends = [each.deadline for each in world.flows().values()]
    for key in world.flows():
        if key.destination_port == SERVED:
            world.expire(key)
    flow.ask(**more)
    assert all(each.deadline >= min(ends) for each in world.flows().values())


# ---- time-outs ----


@both
def test_one_partner_keeps_the_other(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """A flow whose packets run in one direction alone goes on in the other."""
    serve(world, protocol)
    more = {"flags": "A"} if protocol == "TCP" else {}
    for end in (SERVED, 8080):
        world.forget()
        flow = conversation(hooks, protocol)
        flow.ask()
        flow.answer()
        flow.ask(**more)
        (key,) = [k for k in world.flows() if end in (k.source_port, k.destination_port)]
        world.expire(key)
        flow.ask(**more)
        flow.answer(**more)
        assert world.count("FLOW_NEW") == 1


@both
def test_a_flow_past_its_time_is_none(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """When both partners are past their time the next packet opens a flow, or belongs to none."""
    serve(world, protocol)
    conversation(hooks, protocol).ask()
    old = set(world.flows())
    for key in old:
        world.expire(key)
    if protocol == "TCP":
        send(hooks, protocol, flags="A", ack=5)
        assert world.count("UNKNOWN_TCP") == 1
        assert not world.flows()
    conversation(hooks, protocol).ask()
    assert world.count("FLOW_NEW") == 2
    assert len(world.flows()) == 2


def test_an_answer_past_its_time(hooks: Hooks, world: PacketWorld) -> None:
    """Answers of a flow that is over are nobody's."""
    serve(world)
    flow = conversation(hooks)
    flow.ask()
    for key in world.flows():
        world.expire(key)
    assert flow.inner
    back = frames.frame(frames.packet("TCP", flow.inner.reply(), flags="SA"), MAC[UPLINK])
    assert hooks.ingress(UPLINK, back) == (Verdict.UNSPEC, back)


def test_a_port_is_used_again(hooks: Hooks, world: PacketWorld) -> None:
    """A client that reuses its port soon after the end gets a new flow."""
    serve(world)
    flow = conversation(hooks)
    flow.ask()
    flow.answer()
    for ask, answer in (("A", "FA"), ("FA", "A")):
        flow.ask(flags=ask)
        flow.answer(flags=answer)
    conversation(hooks).ask(flags="S")
    assert states(world) == {"TCP_NEW"}
    assert world.count("FLOW_NEW") == 2


@both
def test_a_masqueraded_port_is_used_again(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """Both rewrites of a flow through the stack begin anew together: the pod sees the node."""
    world.service((NODE_PORT, NODE[0], SERVED), local=[LOCAL_POD[0]], protocol=NUMBER[protocol])

    def local() -> Conversation:
        backend = (LOCAL_POD[0], 8080)
        return Conversation(hooks, protocol, CLIENT, backend, UPLINK, POD, NODE[0])

    flow = local()
    flow.ask()
    flow.answer()
    if protocol == "TCP":
        for ask, answer in (("A", "FA"), ("FA", "A")):
            flow.ask(flags=ask)
            flow.answer(flags=answer)
    else:
        for key in world.flows():
            world.expire(key)
    flow = local()
    flow.ask()
    flow.answer()
    assert len(world.flows()) == 4


# ---- Services that change ----


def republish(world: PacketWorld, index: int, backends: list[str], protocol: str) -> None:
    members = [world.backend(address, protocol=NUMBER[protocol]) for address in backends]
    flags = RecordFlags.HAS_ENDPOINTS if members else 0
    world.publish(index, members, flags=flags)


@both
def test_another_backend_comes(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """A flow stays with its backend while that is a member (J5, J6)."""
    index = serve(world, protocol)
    flow = conversation(hooks, protocol)
    flow.ask()
    republish(world, index, [OTHER_POD, REMOTE_POD[0]], protocol)
    flow.ask()
    flow.answer()
    flow.ask()
    assert world.counted() == {"FLOW_NEW": 1}


@both
def test_the_backend_goes(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """A UDP flow whose backend was removed ends at once (J2), a TCP flow finishes (J6)."""
    index = serve(world, protocol)
    flow = conversation(hooks, protocol)
    flow.ask()
    republish(world, index, [OTHER_POD], protocol)
    if protocol == "TCP":
        flow.ask()
        flow.answer()
        return
    assert destination(send(hooks, protocol)) == OTHER_POD
    assert world.counted() == {"FLOW_NEW": 2, "FLOW_ENDED": 1}
    assert len(world.flows()) == 2


def test_the_backends_id_is_given_away(hooks: Hooks, world: PacketWorld) -> None:
    """A UDP flow ends too if its backend's id now stands for somebody else."""
    index = serve(world, "UDP")
    conversation(hooks, "UDP").ask()
    world.reuse_backend(REMOTE_POD[0], OTHER_POD, UDP)
    republish(world, index, [OTHER_POD], "UDP")
    assert destination(send(hooks, "UDP")) == OTHER_POD


@both
def test_no_backend_is_left(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """Without any endpoint flows are left alone (J3); new ones are refused (C10)."""
    index = serve(world, protocol)
    flow = conversation(hooks, protocol)
    flow.ask()
    republish(world, index, [], protocol)
    flow.ask()
    flow.answer()
    send(hooks, protocol, CLIENT._replace(source_port=40001))
    assert world.counted() == {"FLOW_NEW": 1, "PACKET_NO_ENDPOINTS": 1}


@both
def test_the_service_goes(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """Flows of a deleted Service go on by its lingering address (A13, J4), no new one comes."""
    vip = "198.51.100.9"
    index = world.service(
        (LOAD_BALANCER, vip, SERVED), remote=[REMOTE_POD[0]], protocol=NUMBER[protocol]
    )
    outer = CLIENT.to(vip, SERVED)
    flow = conversation(hooks, protocol, outer)
    flow.ask()
    flow.answer()
    world.vip(vip, VipFlags.EXTERNAL | VipFlags.LINGER)
    world.remove_frontend(vip, SERVED, NUMBER[protocol])
    world.unpublish(index)
    flow.ask(**({"flags": "A"} if protocol == "TCP" else {}))
    flow.answer()
    other = frames.frame(frames.packet(protocol, outer._replace(source_port=40001)), MAC[UPLINK])
    for hook in (hooks.ingress, hooks.xdp):
        assert hook(UPLINK, other) == (Verdict.UNSPEC, other)


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
        outer = CLIENT._replace(source_port=40000 + number)
        to = (NODE[0], vip)[number % 2]
        chosen.add(destination(send(hooks, protocol, outer.to(to, SERVED))))
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
        destination(send(hooks, outer=CLIENT._replace(source_port=port)))
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
            destination(send(hooks, outer=CLIENT._replace(source_port=port)))
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
    assert states(world) == {"TCP_ESTABLISHED"}


# ---- the host's own ----


@both
def test_own_client_with_the_number_of_a_node_port(
    hooks: Hooks, world: PacketWorld, protocol: str
) -> None:
    """What the host asked for from a port that is also a node port gets its answers."""
    serve(world, protocol)
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
    serve(world, "UDP")
    answer = frames.frame(
        frames.packet("UDP", Ends("192.0.2.53", 53, NODE[0], SERVED)), MAC[UPLINK]
    )
    assert hooks.ingress(UPLINK, answer) == (Verdict.UNSPEC, answer)
    assert hooks.xdp(UPLINK, answer) == (Verdict.UNSPEC, answer)
    assert not world.flows()
    assert destination(send(hooks, "UDP")) == REMOTE_POD[0]


def test_nobody_speaks_for_the_host(hooks: Hooks, world: PacketWorld) -> None:
    """A packet from outside with the node's own source opens nothing: the stack judges it."""
    serve(world)
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
    index = serve(world)
    empty = world.service((CLUSTER_IP, "10.96.0.6", 80), flags=0)
    local = world.service((NODE_PORT, NODE[0], 30081), remote=[REMOTE_POD[0]], flags=EXTERNAL_LOCAL)
    for port in (1, 2, 3):
        send(hooks, outer=CLIENT._replace(source_port=port))
        send(hooks, outer=Ends(OUTSIDE[0], port, "10.96.0.6", 80))
    send(hooks, outer=CLIENT.to(NODE[0], 30081))
    assert [world.stats(each) for each in (index, empty, local)] == [
        (3, 0, 0),
        (0, 0, 3),
        (0, 0, 1),
    ]


@both
def test_a_local_backend_and_xdp(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """XDP and TC may take turns within one flow."""
    world.service((NODE_PORT, NODE[0], SERVED), local=[LOCAL_POD[0]], protocol=NUMBER[protocol])
    middle = CLIENT.to(LOCAL_POD[0], 8080)
    inner = set()
    for hook in (hooks.ingress, hooks.xdp, hooks.ingress, hooks.xdp):
        seen = hook(UPLINK, frames.frame(frames.packet(protocol, CLIENT), MAC[UPLINK]))
        assert frames.difference(seen.data, frames.packet(protocol, middle)) == ""
        inner.add(frames.ends_of(frames.read(hooks.egress(POD, seen.data).data)))
    assert len(inner) == 1
