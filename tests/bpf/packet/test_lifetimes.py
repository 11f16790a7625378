# SPDX-License-Identifier: Apache-2.0
"""Lives of flows: states, time-outs, ends, and packets that belong to none."""

from __future__ import annotations

import time

import pytest

from kubeproxy_bpf.plan.records import RecordFlags

from . import frames
from .conftest import TICKS_PER_S, TIMEOUTS_S
from .conversation import Conversation, told_apart
from .frames import Ends
from .hooks import Hooks, Verdict
from .node import LOCAL_POD, MAC, NODE, POD, REMOTE_POD, UPLINK
from .scene import (
    CLIENT,
    NUMBER,
    SERVED,
    both,
    conversation,
    established,
    send,
    serve_remote,
    states,
)
from .world import NODE_PORT, STATES, TRACK_REPLY, PacketWorld

pytestmark = pytest.mark.root


# ---- states ----


def test_a_tcp_connection(hooks: Hooks, world: PacketWorld) -> None:
    """Both partners follow the handshake and the end of a connection."""
    serve_remote(world, "TCP")
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
    flow = established(hooks, world)
    flow.ask(flags="FA")
    flow.ask(flags="FA")
    flow.answer(flags="PA")
    assert states(world) == {"TCP_CLOSING"}


def test_a_reset(hooks: Hooks, world: PacketWorld) -> None:
    """A reset ends a connection, unless its sender goes on: then somebody else had sent it."""
    flow = established(hooks, world)
    for sender in (flow.answer, flow.ask):
        sender(flags="R")
        assert states(world) == {"TCP_CLOSED"}
        sender(flags="A")
        assert states(world) == {"TCP_ESTABLISHED"}


@pytest.mark.parametrize("by_client", [True, False])
def test_what_was_under_way_when_a_reset_came(
    hooks: Hooks, world: PacketWorld, by_client: bool
) -> None:
    """No sign of life: whoever had sent it hears of the reset, and nobody speaks any more. The
    entry must not stand in the table for as long as an established one."""
    flow = established(hooks, world)
    resetting, other = (flow.ask, flow.answer) if by_client else (flow.answer, flow.ask)
    resetting(flags="R")
    for _ in range(3):
        other(flags="PA")
    assert states(world) == {"TCP_CLOSED"}


def test_a_fin_that_completes_the_handshake(hooks: Hooks, world: PacketWorld) -> None:
    """The acknowledgement was lost, or came with it: the connection closes, it is not established
    for a day."""
    serve_remote(world, "TCP")
    flow = conversation(hooks)
    flow.ask()
    flow.answer()
    flow.ask(flags="FA")
    assert states(world) == {"TCP_CLOSING"}
    flow.answer(flags="FA")
    assert states(world) == {"TCP_TIME_WAIT"}


def test_two_fins_at_once(hooks: Hooks, world: PacketWorld) -> None:
    """Each on a processor of its own, that saw the other one's too late: the acknowledgements that
    follow end the connection, it does not stay half open for an hour."""
    flow = established(hooks, world)
    flow.answer(flags="FA")
    flow.ask(flags="FA")
    for key in world.flows():
        world.change(key, state=STATES.index("TCP_CLOSING"))
    flow.ask(flags="A")
    assert states(world) == {"TCP_TIME_WAIT"}


def test_a_connection_that_closes_when_it_comes(hooks: Hooks, world: PacketWorld) -> None:
    """Another node had it till now, and its last packets are all that this one sees: nothing is
    established."""
    flags = RecordFlags.HAS_ENDPOINTS | RecordFlags.CONSISTENT
    world.service((NODE_PORT, NODE[0], SERVED), remote=[REMOTE_POD[0]], flags=flags)
    flow = conversation(hooks)
    flow.ask(flags="FA")
    flow.answer(flags="FA")
    flow.ask(flags="A")
    assert states(world) <= {"TCP_CLOSING", "TCP_TIME_WAIT"}


def test_a_refused_connection(hooks: Hooks, world: PacketWorld) -> None:
    """The reset of a backend that nobody listens on reaches the client."""
    serve_remote(world, "TCP")
    flow = conversation(hooks)
    flow.ask()
    flow.answer(flags="RA")
    assert states(world) == {"TCP_CLOSED"}


def test_a_udp_flow(hooks: Hooks, world: PacketWorld) -> None:
    """A datagram, and its answer, which makes the flow live longer."""
    serve_remote(world, "UDP")
    flow = conversation(hooks, "UDP")
    flow.ask()
    flow.ask()
    assert states(world) == {"UDP_NEW"}
    flow.answer()
    assert states(world) == {"UDP_REPLIED"}


@both
def test_deadlines_move(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """Each packet of a settled flow puts off its end."""
    serve_remote(world, protocol)
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


def test_both_partners_have_the_time_of_their_state(hooks: Hooks, world: PacketWorld) -> None:
    """Each change of state gives both entries the time-out of the new one, longer or shorter."""
    serve_remote(world, "TCP")
    flow = conversation(hooks)
    for step, flags in (
        (flow.ask, "S"),
        (flow.answer, "SA"),
        (flow.ask, "A"),
        (flow.answer, "FA"),
        (flow.ask, "FA"),
        (flow.ask, "R"),
    ):
        step(flags=flags)
        (state,) = states(world)
        time_out = TIMEOUTS_S[STATES.index(state)] * TICKS_PER_S
        now = time.clock_gettime(time.CLOCK_MONOTONIC) * TICKS_PER_S
        for entry in world.flows().values():
            assert entry.deadline <= now + time_out + 1
            # Between the smallest and the next larger time-out lie minutes.
            assert entry.deadline > now + time_out - 9 * TICKS_PER_S, state


# ---- time-outs ----


@both
def test_one_partner_keeps_the_other(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """A flow whose packets run in one direction alone goes on in the other."""
    serve_remote(world, protocol)
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
    serve_remote(world, protocol)
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
    serve_remote(world, "TCP")
    flow = conversation(hooks)
    flow.ask()
    for key in world.flows():
        world.expire(key)
    assert flow.inner
    back = frames.frame(frames.packet("TCP", flow.inner.reply(), flags="SA"), MAC[UPLINK])
    assert hooks.ingress(UPLINK, back) == (Verdict.UNSPEC, back)


def test_a_flow_that_is_being_removed(hooks: Hooks, world: PacketWorld) -> None:
    """Nobody follows an entry that another processor is just about to delete: its pair is gone."""
    serve_remote(world)
    conversation(hooks, "UDP").ask()
    (key,) = (key for key, flow in world.flows().items() if not flow.flags & TRACK_REPLY)
    world.make_void(key)
    sent = frames.frame(frames.packet("UDP", CLIENT), MAC[UPLINK])
    assert hooks.ingress(UPLINK, sent).verdict is Verdict.DROP
    assert world.count("FLOWS_FULL") == 1
    world.maps["kpb_flows"].delete(world.encoded(key))
    conversation(hooks, "UDP").ask()


def test_a_port_is_used_again(hooks: Hooks, world: PacketWorld) -> None:
    """A client that reuses its port soon after the end gets a new flow."""
    serve_remote(world, "TCP")
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
    # A datagram's second pair has another port now; the dead one waits for its turn to go.
    assert len(world.flows()) == (4 if protocol == "TCP" else 6)


@both
def test_a_local_backend_and_xdp(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """XDP and TC may take turns within one flow."""
    world.service((NODE_PORT, NODE[0], SERVED), local=[LOCAL_POD[0]], protocol=NUMBER[protocol])
    middle = CLIENT.to(LOCAL_POD[0], 8080)
    inner: set[Ends] = set()
    for hook in (hooks.ingress, hooks.xdp, hooks.ingress, hooks.xdp):
        seen = hook(UPLINK, frames.frame(frames.packet(protocol, CLIENT), MAC[UPLINK]))
        if protocol == "UDP" and not inner:
            middle = told_apart(middle, seen.data)
        assert frames.difference(seen.data, frames.packet(protocol, middle)) == ""
        inner.add(frames.ends_of(frames.read(hooks.egress(POD, seen.data).data)))
    assert len(inner) == 1
