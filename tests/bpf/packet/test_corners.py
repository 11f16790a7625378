# SPDX-License-Identifier: Apache-2.0
"""Rare combinations, each of which once went wrong."""

from __future__ import annotations

import time

import pytest

from kubeproxy_bpf.plan.records import BackendFlags, RecordFlags

from . import frames
from .frames import Ends
from .hooks import Hooks, Verdict
from .node import (
    FAR_POD,
    LOCAL_POD,
    MAC,
    NODE,
    NODE_B,
    POD,
    REMOTE_POD,
    UPLINK,
    UPLINK_SECOND,
)
from .scene import (
    CLIENT,
    SERVED,
    both,
    conversation,
    destination,
    send,
    serve_remote,
    states,
)
from .world import CLUSTER_IP, EXTERNAL_IP, NODE_PORT, PacketWorld

pytestmark = pytest.mark.root

NO_MAC = "00:00:00:00:00:00"
SOMEBODY = "02:00:00:00:77:77"


def test_the_client_comes_another_way(hooks: Hooks, world: PacketWorld) -> None:
    """Answers leave by the device that the client's packets come by now, not by the first one."""
    serve_remote(world, "TCP")

    def ask(device: str, flags: str) -> Ends:
        sent = frames.frame(frames.packet("TCP", CLIENT, flags=flags), MAC[device])
        return frames.ends_of(frames.read(hooks.ingress(device, sent).data))

    inner = ask(UPLINK_SECOND, "S")
    for flags in ("SA", "A"):
        back = frames.frame(frames.packet("TCP", inner.reply(), flags=flags), MAC[UPLINK])
        hooks.ingress(UPLINK, back)
        ask(UPLINK_SECOND, "A")
    time.sleep(0.2)  # the way is noted once a tick, of 0.134 s
    ask(UPLINK, "PA")
    assert hooks.ingress(UPLINK, back).data[6:12].hex(":") == MAC[UPLINK]


@both
def test_a_pod_in_a_clients_name(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """It may send what it likes, but the client's answers do not follow it home."""
    serve_remote(world, protocol)
    flow = conversation(hooks, protocol)
    flow.ask()
    flow.answer()
    flow.ask(**({"flags": "A"} if protocol == "TCP" else {}))
    time.sleep(0.2)  # the way is noted once a tick, of 0.134 s
    flags = {"flags": "A"} if protocol == "TCP" else {}
    hooks.ingress(POD, frames.frame(frames.packet(protocol, CLIENT, **flags), MAC[POD]))
    assert flow.inner
    back = frames.frame(frames.packet(protocol, flow.inner.reply(), **flags), MAC[UPLINK])
    assert hooks.ingress(UPLINK, back).data[6:12].hex(":") == MAC[UPLINK]


def test_frames_of_others(hooks: Hooks, world: PacketWorld) -> None:
    """What a promiscuous device shows of other hosts is neither dropped nor the start of a flow."""
    world.node(service_cidrs=["10.96.0.0/16"])
    world.service((CLUSTER_IP, "10.96.0.10", 80), remote=[REMOTE_POD[0]])
    for address in ("10.96.9.9", "10.96.0.10"):
        data = frames.frame(frames.packet("TCP", CLIENT.to(address, 80)), SOMEBODY)
        for hook in (hooks.xdp, hooks.ingress):
            assert hook(UPLINK, data) == (Verdict.UNSPEC, data)
    assert not world.flows()
    assert not world.counted()


def test_a_new_connection_after_the_backend_died(hooks: Hooks, world: PacketWorld) -> None:
    """A SYN on a flow whose backend is gone without a FIN is a new flow, to a living one."""
    index = serve_remote(world, "TCP")
    flow = conversation(hooks)
    flow.ask()
    flow.answer()
    flow.ask(flags="A")
    world.publish(index, [world.backend(FAR_POD[0])], flags=RecordFlags.HAS_ENDPOINTS)
    assert destination(send(hooks, flags="S")) == FAR_POD[0]


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


def test_netfilter_gives_a_pod_a_port_of_ours(hooks: Hooks, world: PacketWorld) -> None:
    """What it masquerades with a port that a flow of ours has at the same peer gets another."""
    serve_remote(world, "TCP")
    ours = frames.ends_of(frames.read(send(hooks, "TCP", CLIENT, flags="S").data))
    sent = frames.frame(frames.packet("TCP", ours, flags="S"), SOMEBODY)
    left = frames.ends_of(frames.read(hooks.egress(UPLINK, sent).data))
    assert left._replace(source_port=0) == ours._replace(source_port=0)
    assert left.source_port != ours.source_port

    back = frames.frame(frames.packet("TCP", left.reply(), flags="SA"), MAC[UPLINK])
    came = hooks.ingress(UPLINK, back)
    assert frames.ends_of(frames.read(came.data)) == ours.reply()
    assert came.verdict is Verdict.UNSPEC
