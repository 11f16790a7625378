# SPDX-License-Identifier: Apache-2.0
"""Flows in both directions, by every way through the node: what either side sees, byte for byte."""

from __future__ import annotations

import socket

import pytest

from kubeproxy_bpf.plan.records import BackendFlags

from . import frames
from .conversation import Conversation
from .frames import Ends
from .hooks import Hooks, Verdict
from .node import (
    FAR_POD,
    GATEWAY,
    GATEWAY_SECOND,
    LOCAL_POD,
    LOCAL_POD_2,
    MAC,
    NODE,
    NODE_B,
    NODE_SECOND,
    OUTSIDE,
    PEER_MAC,
    POD,
    POD_2,
    REMOTE_POD,
    UPLINK,
    UPLINK_SECOND,
)
from .world import (
    CLUSTER_IP,
    DEVICE_ETHERNET,
    EXTERNAL_IP,
    EXTERNAL_LOCAL,
    NODE_PORT,
    TRACK_DIRECT,
    PacketWorld,
)

pytestmark = pytest.mark.root

NUMBER = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP, "SCTP": 132}
VIP = ("10.96.0.1", "fd00:10:96::1")
OUTER_VIP = ("203.0.113.1", "2001:db8::1")
SERVED = 30080

families = pytest.mark.parametrize("family", (0, 1), ids=("ipv4", "ipv6"))
protocols = pytest.mark.parametrize("protocol", ("TCP", "UDP", "SCTP"))


def port_of(protocol: str) -> int:
    """SCTP is translated by address alone."""
    return SERVED if protocol == "SCTP" else 8080


def talk(conversation: Conversation, leaves_by: str = "") -> None:
    """Open, and exchange data: the same flow all along."""
    more = {"flags": "PA"} if conversation.protocol == "TCP" else {}
    conversation.ask()
    conversation.answer(leaves_by)
    for size in (0, 1, 2, 333, 1400):
        payload = bytes(range(256)) * 6
        conversation.ask(payload=payload[:size], **more)
        conversation.answer(leaves_by, payload=payload[: size + 1], **more)


@families
@protocols
def test_outside_to_a_remote_backend(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """A node port with a remote backend: both rewrites at ingress, straight out, one hop less."""
    port = port_of(protocol)
    world.service(
        (NODE_PORT, VIP[family], SERVED),
        remote=[REMOTE_POD[family]],
        protocol=NUMBER[protocol],
        port=port,
    )
    outer = Ends(OUTSIDE[family], 40000, NODE[family], SERVED)
    backend = (REMOTE_POD[family], port)
    talk(Conversation(hooks, protocol, outer, backend, UPLINK, UPLINK, NODE[family], direct=True))
    assert all(flow.flags & TRACK_DIRECT for flow in world.flows().values())
    assert len(world.flows()) == 2
    assert world.counted() == {"FLOW_NEW": 1}


@families
@protocols
def test_by_another_uplink(hooks: Hooks, world: PacketWorld, family: int, protocol: str) -> None:
    """The node's address is that of the device that the packet leaves by; answers find back."""
    port = port_of(protocol)
    world.service(
        (NODE_PORT, VIP[family], SERVED),
        remote=[FAR_POD[family]],
        protocol=NUMBER[protocol],
        port=port,
    )
    outer = Ends(OUTSIDE[family], 40000, NODE[family], SERVED)
    backend = (FAR_POD[family], port)
    own = NODE_SECOND[family]
    talk(Conversation(hooks, protocol, outer, backend, UPLINK, UPLINK_SECOND, own, direct=True))


@families
def test_xdp_redirects_where_that_arrives(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """XDP sends a frame to another device if that takes frames from XDP, else TC does."""
    world.service((NODE_PORT, VIP[family], SERVED), remote=[FAR_POD[family]])
    outer = Ends(OUTSIDE[family], 40000, NODE[family], SERVED)
    sent = frames.frame(frames.packet("TCP", outer), MAC[UPLINK])
    seen = hooks.xdp(UPLINK, sent)
    assert seen.verdict is Verdict.REDIRECT
    inner = frames.ends_of(frames.read(seen.data))
    assert inner.source == NODE_SECOND[family]
    assert frames.difference(seen.data, frames.packet("TCP", inner, 63)) == ""
    assert seen.data[:12] == macs(PEER_MAC[GATEWAY_SECOND], MAC[UPLINK_SECOND])
    world.device(UPLINK_SECOND, DEVICE_ETHERNET, NODE_SECOND)
    assert hooks.xdp(UPLINK, sent) == (Verdict.UNSPEC, sent)
    again = hooks.ingress(UPLINK, sent)
    assert frames.difference(again.data, frames.packet("TCP", inner, 63)) == ""


@families
def test_xdp_knows_its_own_frames(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """A frame for another host, which a promiscuous device shows, is left alone."""
    world.service((NODE_PORT, VIP[family], SERVED), remote=[REMOTE_POD[family]])
    outer = Ends(OUTSIDE[family], 40000, NODE[family], SERVED)
    sent = frames.frame(frames.packet("TCP", outer), "02:00:00:00:00:77")
    assert hooks.ingress(UPLINK, sent) == (Verdict.UNSPEC, sent)
    assert hooks.xdp(UPLINK, sent) == (Verdict.UNSPEC, sent)


@families
@protocols
def test_outside_to_a_local_backend(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """A masqueraded flow to a local pod: netfilter sees client and backend in both directions."""
    port = port_of(protocol)
    world.service(
        (EXTERNAL_IP, OUTER_VIP[family], SERVED),
        local=[LOCAL_POD[family]],
        protocol=NUMBER[protocol],
        port=port,
    )
    outer = Ends(OUTSIDE[family], 40000, OUTER_VIP[family], SERVED)
    backend = (LOCAL_POD[family], port)
    talk(Conversation(hooks, protocol, outer, backend, UPLINK, POD, NODE[family]))
    assert len(world.flows()) == 4


@families
@protocols
@pytest.mark.parametrize("leaves_by", ("", UPLINK_SECOND))
def test_local_policy_keeps_the_client(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str, leaves_by: str
) -> None:
    """The pod sees the client (E7); its answer goes back by the client's device in any case."""
    port = port_of(protocol)
    world.service(
        (NODE_PORT, VIP[family], SERVED),
        local=[LOCAL_POD[family]],
        protocol=NUMBER[protocol],
        port=port,
        flags=EXTERNAL_LOCAL,
    )
    outer = Ends(OUTSIDE[family], 40000, NODE[family], SERVED)
    backend = (LOCAL_POD[family], port)
    talk(Conversation(hooks, protocol, outer, backend, UPLINK, POD), leaves_by)
    assert len(world.flows()) == 2


@families
def test_the_clients_device_is_gone(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """Answers do not wait for a packet of the client by another device: the routes lead them."""
    world.service((NODE_PORT, VIP[family], SERVED), local=[LOCAL_POD[family]], flags=EXTERNAL_LOCAL)
    world.service((NODE_PORT, VIP[family], SERVED + 1), remote=[REMOTE_POD[family]])
    for served, backend, by, own in (
        (SERVED, LOCAL_POD[family], POD, ""),
        (SERVED + 1, REMOTE_POD[family], UPLINK, NODE[family]),
    ):
        outer = Ends(OUTSIDE[family], 40000, NODE[family], served)
        talk = Conversation(
            hooks, "TCP", outer, (backend, 8080), UPLINK_SECOND, by, own, direct=bool(own)
        )
        talk.ask()
        assert talk.inner
        answer = frames.packet("TCP", talk.inner.reply(), flags="SA")
        for there in (True, False):
            world.device(UPLINK_SECOND, DEVICE_ETHERNET, NODE_SECOND)
            if not there:
                world.no_device(UPLINK_SECOND)
            seen = hooks.ingress(by, frames.frame(answer, MAC[by]))
            if not own:
                seen = hooks.egress(UPLINK, seen.data)
            assert frames.ends_of(frames.read(seen.data)) == outer.reply()
            back = macs(PEER_MAC[GATEWAY_SECOND], MAC[UPLINK_SECOND])
            assert (seen.data[6:12] == back[6:]) is there
            assert there is (seen.verdict is Verdict.REDIRECT) or own


@families
@protocols
def test_pod_to_a_remote_backend(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """A pod's packet to a cluster IP leaves with the pod's address, through the stack (E1)."""
    port = port_of(protocol)
    world.service(
        (CLUSTER_IP, VIP[family], SERVED),
        remote=[REMOTE_POD[family]],
        protocol=NUMBER[protocol],
        port=port,
    )
    outer = Ends(LOCAL_POD_2[family], 40000, VIP[family], SERVED)
    talk(Conversation(hooks, protocol, outer, (REMOTE_POD[family], port), POD_2, UPLINK))
    assert len(world.flows()) == 2


@families
@protocols
def test_hairpin(hooks: Hooks, world: PacketWorld, family: int, protocol: str) -> None:
    """A pod that reaches itself through a VIP sees the node's address as client (E8)."""
    port = port_of(protocol)
    world.service(
        (CLUSTER_IP, VIP[family], SERVED),
        local=[LOCAL_POD[family]],
        protocol=NUMBER[protocol],
        port=port,
    )
    outer = Ends(LOCAL_POD[family], 40000, VIP[family], SERVED)
    backend = (LOCAL_POD[family], port)
    talk(Conversation(hooks, protocol, outer, backend, POD, POD, NODE[family]))


@families
@pytest.mark.parametrize("protocol", ("TCP", "UDP"))
def test_hairpin_by_one_port(hooks: Hooks, world: PacketWorld, family: int, protocol: str) -> None:
    """A pod that dials from the very port that it serves is told apart from itself."""
    pod, port = LOCAL_POD[family], port_of(protocol)
    front, outer = (CLUSTER_IP, VIP[family], SERVED), Ends(pod, port, VIP[family], SERVED)
    world.service(front, local=[pod], protocol=NUMBER[protocol], port=port)
    talk(Conversation(hooks, protocol, outer, (pod, port), POD, POD, NODE[family]))
    assert 4 == len(world.flows())


@families
@protocols
@pytest.mark.parametrize("where", ("local", "remote"))
def test_host(hooks: Hooks, world: PacketWorld, family: int, protocol: str, where: str) -> None:
    """What a socket of the host sends to a VIP is translated as it leaves (E2)."""
    port = port_of(protocol)
    pod, device = (LOCAL_POD, POD) if where == "local" else (REMOTE_POD, UPLINK)
    world.service(
        (CLUSTER_IP, VIP[family], SERVED),
        local=[pod[family]] if where == "local" else [],
        remote=[pod[family]] if where == "remote" else [],
        protocol=NUMBER[protocol],
        port=port,
    )
    outer = Ends(NODE[family], 40000, VIP[family], SERVED)
    talk(
        Conversation(
            hooks,
            protocol,
            outer,
            (pod[family], port),
            UPLINK,
            device,
            NODE[family],
            direct=True,
            host=True,
        )
    )


@families
@protocols
def test_a_backend_on_the_host(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """A backend in the host's namespace answers as the address that was dialled."""
    port = port_of(protocol)
    world.service(
        (EXTERNAL_IP, OUTER_VIP[family], SERVED),
        local=[NODE[family]],
        protocol=NUMBER[protocol],
        port=port,
        backend_flags=BackendFlags.HOST,
    )
    outer = Ends(OUTSIDE[family], 40000, OUTER_VIP[family], SERVED)
    middle = outer.to(NODE[family], port)
    for hook in (hooks.ingress, hooks.xdp, hooks.ingress):
        sent = frames.frame(frames.packet(protocol, outer), MAC[UPLINK])
        seen = hook(UPLINK, sent)
        if hook == hooks.xdp and seen.data == sent:
            continue  # left to TC
        assert seen.verdict is Verdict.UNSPEC
        assert frames.difference(seen.data, frames.packet(protocol, middle)) == ""
        # TC looks at what XDP passed up: it is no other flow.
        assert hooks.ingress(UPLINK, seen.data) == (Verdict.UNSPEC, seen.data)
        answer = frames.packet(protocol, middle.reply())
        left = hooks.egress(UPLINK, frames.frame(answer, MAC[UPLINK]))
        assert left.verdict is Verdict.UNSPEC
        assert frames.difference(left.data, frames.packet(protocol, outer.reply())) == ""
    assert len(world.flows()) == 2


@families
@pytest.mark.parametrize("protocol", ("TCP", "UDP"))
def test_two_clients_with_one_port(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """Flows that differ in the client's address alone, or in the VIP alone, stay apart."""
    world.service(
        (NODE_PORT, VIP[family], SERVED),
        (EXTERNAL_IP, OUTER_VIP[family], 80),
        local=[LOCAL_POD[family]],
        protocol=NUMBER[protocol],
        flags=EXTERNAL_LOCAL,
    )
    backend = (LOCAL_POD[family], 8080)
    first = Ends(OUTSIDE[family], 40000, NODE[family], SERVED)
    neighbour = Ends(GATEWAY[family], 40000, NODE[family], SERVED)
    for outer in (first, neighbour):
        talk(Conversation(hooks, protocol, outer, backend, UPLINK, POD))
    assert len(world.flows()) == 4
    # The same client and port, to the same pod, by another VIP: the pod cannot see the same.
    sent = frames.packet(protocol, Ends(OUTSIDE[family], 40000, OUTER_VIP[family], 80))
    seen = hooks.ingress(UPLINK, frames.frame(sent, MAC[UPLINK]))
    came = frames.ends_of(frames.read(seen.data))
    assert came.destination_port == 8080 and came[:2] != first[:2]
    back = frames.packet(protocol, came.reply())
    left = hooks.egress(UPLINK, frames.frame(back, MAC[UPLINK]))
    assert frames.ends_of(frames.read(left.data)) == Ends(
        OUTER_VIP[family], 80, OUTSIDE[family], 40000
    )


@families
@pytest.mark.parametrize("protocol", ("TCP", "UDP"))
def test_xdp_turns_around(hooks: Hooks, world: PacketWorld, family: int, protocol: str) -> None:
    """XDP does with a remote backend's flow what TC does, and finishes the frames itself."""
    world.service(
        (NODE_PORT, VIP[family], SERVED), remote=[REMOTE_POD[family]], protocol=NUMBER[protocol]
    )
    outer = Ends(OUTSIDE[family], 40000, NODE[family], SERVED)
    asked = hooks.xdp(UPLINK, frames.frame(frames.packet(protocol, outer), MAC[UPLINK]))
    assert asked.verdict is Verdict.TX
    inner = frames.ends_of(frames.read(asked.data))
    assert (inner.source, *inner[2:]) == (NODE[family], REMOTE_POD[family], 8080)
    assert frames.difference(asked.data, frames.packet(protocol, inner, 63)) == ""
    assert asked.data[:12] == macs(PEER_MAC[NODE_B], MAC[UPLINK])
    reply = frames.packet(protocol, inner.reply())
    answered = hooks.xdp(UPLINK, frames.frame(reply, MAC[UPLINK]))
    assert answered.verdict is Verdict.TX
    assert frames.difference(answered.data, frames.packet(protocol, outer.reply(), 63)) == ""
    assert answered.data[:12] == macs(PEER_MAC[GATEWAY], MAC[UPLINK])
    assert len(world.flows()) == 2


@families
@pytest.mark.parametrize("protocol", ("TCP", "UDP"))
def test_xdp_hands_up_what_goes_to_pods(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """A flow to a local pod is rewritten by XDP and passed up; TC behind it finds it done."""
    world.service(
        (NODE_PORT, VIP[family], SERVED),
        local=[LOCAL_POD[family]],
        protocol=NUMBER[protocol],
        flags=EXTERNAL_LOCAL,
    )
    outer = Ends(OUTSIDE[family], 40000, NODE[family], SERVED)
    conversation = Conversation(hooks, protocol, outer, (LOCAL_POD[family], 8080), UPLINK, POD)
    up = hooks.xdp(UPLINK, frames.frame(frames.packet(protocol, outer), MAC[UPLINK]))
    conversation.check(up, Verdict.UNSPEC, conversation.middle)
    behind = hooks.ingress(UPLINK, up.data)
    assert behind == (Verdict.UNSPEC, up.data)
    conversation.arrived(hooks.egress(POD, behind.data), 64)
    conversation.answer()


@families
def test_frames_carry_the_next_hop(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """With a resolved neighbour the frame that TC redirects is complete."""
    world.service((NODE_PORT, VIP[family], SERVED), remote=[REMOTE_POD[family]])
    outer = Ends(OUTSIDE[family], 40000, NODE[family], SERVED)
    seen = hooks.ingress(UPLINK, frames.frame(frames.packet("TCP", outer), MAC[UPLINK]))
    assert seen.data[:12] == macs(PEER_MAC[NODE_B], MAC[UPLINK])


def macs(destination: str, source: str) -> bytes:
    """The first bytes of a frame."""
    return bytes.fromhex((destination + source).replace(":", ""))
