# SPDX-License-Identifier: Apache-2.0
"""Packets and bytes of each Service, by every way through the node, where somebody asks for them.

What is expected is added up from the packets that the ends send, never from what programs saw.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from kubeproxy_bpf.dataplane.settings import ConfigFlags, Settings
from kubeproxy_bpf.plan.records import BackendFlags

from . import frames
from .conftest import DETECTOR, settings
from .conversation import Conversation
from .frames import Ends
from .hooks import Hooks, Verdict
from .node import (
    FAR_POD,
    GATEWAY,
    LOCAL_POD,
    LOCAL_POD_2,
    MAC,
    NODE,
    NODE_SECOND,
    OUTSIDE,
    OUTSIDE_L3,
    POD,
    POD_2,
    REMOTE_POD,
    REMOTE_POD_L3,
    TUNNEL,
    UPLINK,
    UPLINK_SECOND,
)
from .scene import NUMBER, PORT, SERVED, both, enter, families, outer, send, serve_remote
from .test_fragments import pieces
from .test_tunnels import bare
from .world import (
    CLUSTER_IP,
    DEVICE_ETHERNET,
    EXTERNAL_IP,
    EXTERNAL_LOCAL,
    LOAD_BALANCER,
    NODE_PORT,
    PacketWorld,
)

pytestmark = pytest.mark.root

VIP = ("10.96.0.1", "fd00:10:96::1")
OUTER_VIP = ("203.0.113.1", "2001:db8::1")
NOTHING = (0, 0, 0)
DSR = ConfigFlags.SERVICE_TRAFFIC | ConfigFlags.DSR_TCP | ConfigFlags.DSR_UDP


@pytest.fixture
def switches() -> ConfigFlags:
    """Tests with other switches override this."""
    return ConfigFlags.SERVICE_TRAFFIC


@pytest.fixture
def config(switches: ConfigFlags) -> Settings:
    return settings(DETECTOR | switches)


class Way(NamedTuple):
    """How a flow goes through the node."""

    kind: Any
    client: tuple[str, str]
    vip: tuple[str, str]
    pod: tuple[str, str]
    client_device: str
    backend_device: str
    masqueraded: bool = False
    direct: bool = False
    host: bool = False
    flags: int | None = None
    hops: int = 2
    """Entries of the flow table."""


WAYS = {
    "direct": Way(NODE_PORT, OUTSIDE, NODE, REMOTE_POD, UPLINK, UPLINK, True, direct=True),
    "stack": Way(NODE_PORT, OUTSIDE, NODE, LOCAL_POD, UPLINK, POD, flags=EXTERNAL_LOCAL),
    "stack, masqueraded": Way(NODE_PORT, OUTSIDE, NODE, LOCAL_POD, UPLINK, POD, True, hops=4),
    "pod to a remote pod": Way(CLUSTER_IP, LOCAL_POD_2, VIP, REMOTE_POD, POD_2, UPLINK),
    "hairpin": Way(CLUSTER_IP, LOCAL_POD, VIP, LOCAL_POD, POD, POD, True, hops=4),
    "host to a local pod": Way(
        CLUSTER_IP, NODE, VIP, LOCAL_POD, UPLINK, POD, True, direct=True, host=True
    ),
    "host to a remote pod": Way(
        CLUSTER_IP, NODE, VIP, REMOTE_POD, UPLINK, UPLINK, True, direct=True, host=True
    ),
}


def serve(world: PacketWorld, way: Way, family: int, protocol: str) -> int:
    pods = [way.pod[family]]
    local = way.pod == LOCAL_POD
    return world.service(
        (way.kind, way.vip[family], SERVED),
        local=pods if local else [],
        remote=[] if local else pods,
        protocol=NUMBER[protocol],
        flags=way.flags,
    )


def begin(hooks: Hooks, way: Way, family: int, protocol: str, port: int = 40000) -> Conversation:
    return Conversation(
        hooks,
        protocol,
        Ends(way.client[family], port, way.vip[family], SERVED),
        (way.pod[family], PORT),
        way.client_device,
        way.backend_device,
        NODE[family] if way.masqueraded else "",
        way.direct,
        way.host,
    )


def length(protocol: str, ends: Ends, **fields: Any) -> int:
    """Bytes from the IP header on."""
    return len(frames.raw(frames.packet(protocol, ends, **fields)))


def talk(conversation: Conversation, sizes: tuple[int, ...] = (0, 1, 333, 1400)) -> int:
    """A question and an answer of each size; return all bytes."""
    protocol, sent = conversation.protocol, 0
    for size in sizes:
        payload = bytes(size)
        conversation.ask(payload=payload)
        conversation.answer(payload=payload + b"!")
        sent += length(protocol, conversation.outer, payload=payload)
        sent += length(protocol, conversation.outer, payload=payload + b"!")
    return sent


@families
@both
@pytest.mark.parametrize("name", WAYS)
def test_both_directions_count_once(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str, name: str
) -> None:
    """Each packet counts once, also where two hooks rewrite it; the flow is no connection here."""
    way = WAYS[name]
    index = serve(world, way, family, protocol)
    sent = talk(begin(hooks, way, family, protocol))
    assert len(world.flows()) == way.hops
    assert world.traffic(index) == (0, 8, sent)
    sent += talk(begin(hooks, way, family, protocol, 40001), (7,))
    assert world.traffic(index) == (0, 10, sent)
    assert world.stats(index) == (2, 0, 0)


@families
@both
def test_a_backend_on_the_host(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """Its answers count as they leave."""
    index = world.service(
        (EXTERNAL_IP, OUTER_VIP[family], SERVED),
        local=[NODE[family]],
        protocol=NUMBER[protocol],
        backend_flags=BackendFlags.HOST,
    )
    dialled = outer(family).to(OUTER_VIP[family], SERVED)
    send(hooks, protocol, dialled)
    answer = frames.packet(protocol, dialled.to(NODE[family], PORT).reply(), payload=bytes(100))
    hooks.egress(UPLINK, frames.frame(answer, MAC[UPLINK]))
    sent = length(protocol, dialled) + length(protocol, dialled, payload=bytes(100))
    assert world.traffic(index) == (0, 2, sent)


@families
@both
@pytest.mark.parametrize("switches", [DSR])
def test_dsr(hooks: Hooks, world: PacketWorld, family: int, protocol: str) -> None:
    """Of a flow whose backend answers the client itself, this node sees one direction."""
    vip = OUTER_VIP[family]
    index = world.service(
        (LOAD_BALANCER, vip, SERVED), remote=[REMOTE_POD[family]], protocol=NUMBER[protocol]
    )
    dialled = outer(family).to(vip, SERVED)
    for size in (0, 100):
        assert send(hooks, protocol, dialled, payload=bytes(size)).verdict is Verdict.REDIRECT
    assert world.count("DSR") == 1
    sent = length(protocol, dialled, payload=b"") + length(protocol, dialled, payload=bytes(100))
    assert world.traffic(index) == (0, 2, sent)


@families
@both
@pytest.mark.parametrize("masqueraded", (False, True))
@pytest.mark.parametrize("switches", [ConfigFlags.SERVICE_TRAFFIC | ConfigFlags.REDIRECT_PEER])
def test_straight_into_a_pod(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str, masqueraded: bool
) -> None:
    """With --bpf-redirect-peer a packet meets one hook."""
    flags = None if masqueraded else EXTERNAL_LOCAL
    way = WAYS["stack"]._replace(direct=True, flags=flags, masqueraded=masqueraded)
    index = serve(world, way, family, protocol)
    sent = talk(begin(hooks, way, family, protocol))
    assert world.traffic(index) == (0, 8, sent)


@families
def test_every_fragment_counts(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """With its own header, and whether it shows ports or not."""
    index = serve_remote(world, "UDP", family)
    sent = pieces(outer(family))
    for each in sent:
        assert enter(hooks, each).verdict is Verdict.REDIRECT
    assert len(sent) > 2
    assert world.traffic(index) == (0, len(sent), sum(len(frames.raw(each)) for each in sent))


@families
@both
def test_a_device_without_frames(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """Bytes begin with the IP header, whether one of Ethernet stands before it or not."""
    index = world.service(
        (NODE_PORT, NODE[family], SERVED),
        remote=[REMOTE_POD_L3[family]],
        protocol=NUMBER[protocol],
    )
    ends = Ends(OUTSIDE_L3[family], 40000, NODE[family], SERVED)
    sent = frames.raw(bare(protocol, ends))
    assert hooks.ingress_l3(TUNNEL, sent).verdict is Verdict.REDIRECT
    assert world.traffic(index) == (0, 1, len(sent))


def test_segments_that_travel_as_one_count_each(hooks: Hooks, world: PacketWorld) -> None:
    """What offloads put together is as many packets as the wire sees."""
    index = serve_remote(world, "TCP")
    send(hooks, "TCP")
    large = frames.packet("TCP", outer(0), payload=bytes(2800), flags="A")
    sent = frames.frame(large, MAC[UPLINK])
    assert hooks.ingress(UPLINK, sent, gso_size=1400, gso_segs=2).verdict is Verdict.REDIRECT
    bytes_sent = length("TCP", outer(0)) + len(sent) - 14
    assert world.traffic(index) == (0, 3, bytes_sent)


@families
@both
def test_every_service_has_its_own(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """Also of one backend, and in the answers."""
    first = world.service(
        (NODE_PORT, NODE[family], SERVED), remote=[REMOTE_POD[family]], protocol=NUMBER[protocol]
    )
    second = world.service(
        (EXTERNAL_IP, OUTER_VIP[family], 80),
        remote=[REMOTE_POD[family]],
        protocol=NUMBER[protocol],
    )
    expected = {first: [0, 0], second: [0, 0]}
    direct = WAYS["direct"]
    for index, port, address, served in (
        (first, 1, NODE[family], SERVED),
        (second, 2, OUTER_VIP[family], 80),
        (second, 3, OUTER_VIP[family], 80),
    ):
        conversation = begin(hooks, direct, family, protocol, 40000 + port)
        conversation.outer = conversation.outer.to(address, served)
        expected[index][0] += 8
        expected[index][1] += talk(conversation)
    assert {index: [*world.traffic(index)[1:]] for index in expected} == expected


@families
@both
def test_xdp_counts_what_it_sends(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """A frame that XDP finishes meets no other hook."""
    index = world.service(
        (NODE_PORT, NODE[family], SERVED), remote=[REMOTE_POD[family]], protocol=NUMBER[protocol]
    )
    content = frames.packet(protocol, outer(family))
    asked = hooks.xdp(UPLINK, frames.frame(content, MAC[UPLINK]))
    assert asked.verdict is Verdict.TX
    reply = frames.packet(protocol, frames.ends_of(frames.read(asked.data)).reply())
    assert hooks.xdp(UPLINK, frames.frame(reply, MAC[UPLINK])).verdict is Verdict.TX
    assert world.traffic(index) == (0, 2, 2 * len(frames.raw(content)))


@families
@both
def test_what_xdp_rewrites_and_hands_up_counts_once(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """TC finds nothing left to do."""
    way = WAYS["stack"]
    index = serve(world, way, family, protocol)
    sent = frames.frame(frames.packet(protocol, outer(family)), MAC[UPLINK])
    up = hooks.xdp(UPLINK, sent)
    assert up.data != sent
    hooks.egress(POD, hooks.ingress(UPLINK, up.data).data)
    assert world.traffic(index) == (0, 1, len(sent) - 14)


def leave_to_tc(hooks: Hooks, world: PacketWorld, pod: str, vip: str, protocol: str) -> None:
    """XDP hands a packet up untouched, TC sends it on; count it once."""
    index = world.service((EXTERNAL_IP, vip, SERVED), remote=[pod], protocol=NUMBER[protocol])
    content = frames.packet(protocol, Ends(OUTSIDE[":" in vip], 40000, vip, SERVED))
    sent = frames.frame(content, MAC[UPLINK])
    for number in (1, 2):
        assert hooks.xdp(UPLINK, sent) == (Verdict.UNSPEC, sent)
        assert hooks.ingress(UPLINK, sent).verdict is Verdict.REDIRECT
        assert world.traffic(index) == (0, number, number * len(frames.raw(content)))
    assert world.stats(index) == (1, 0, 0)


@families
@both
def test_what_xdp_leaves_to_tc_counts_once(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """A frame for a device that takes none from XDP."""
    world.device(UPLINK_SECOND, DEVICE_ETHERNET, NODE_SECOND)
    leave_to_tc(hooks, world, FAR_POD[family], OUTER_VIP[family], protocol)


@families
@both
@pytest.mark.parametrize("switches", [DSR])
def test_dsr_behind_xdp_counts_once(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """Only TC can send a frame on as it is."""
    leave_to_tc(hooks, world, REMOTE_POD[family], OUTER_VIP[family], protocol)


@families
def test_what_is_refused_does_not_pass(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """It stands among what was rejected; and packets of no Service are nobody's."""
    index = world.service((NODE_PORT, NODE[family], SERVED), flags=0)
    send(hooks, "TCP", outer(family))
    send(hooks, "TCP", outer(family).to(GATEWAY[family], 80))
    assert world.traffic(index) == NOTHING
    assert world.traffic(0) == NOTHING
    assert world.stats(index)[2] == 1


@families
@both
@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("switches", [ConfigFlags(0)])
def test_nothing_is_counted_where_nobody_asks(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str, name: str
) -> None:
    """New flows are, as ever."""
    way = WAYS[name]
    index = serve(world, way, family, protocol)
    talk(begin(hooks, way, family, protocol))
    assert world.traffic(index) == NOTHING
    assert world.stats(index) == (1, 0, 0)


def test_an_heir_counts_both_directions(hooks: Hooks, world: PacketWorld) -> None:
    """A flow that goes on with another Service is that one's, and its answers too."""
    front, number = (LOAD_BALANCER, OUTER_VIP[0], SERVED), NUMBER["UDP"]
    first = world.service(front, remote=[REMOTE_POD[0]], protocol=number)
    dialled = outer(0).to(OUTER_VIP[0], SERVED)
    backend = (REMOTE_POD[0], PORT)
    flow = Conversation(hooks, "UDP", dialled, backend, UPLINK, UPLINK, NODE[0], direct=True)
    talk(flow, (7,))
    world.remove_frontend(OUTER_VIP[0], SERVED, number)
    world.unpublish(first)
    heir = world.service(front, remote=[REMOTE_POD[0]], protocol=number)
    flow.ask()  # with this one it goes over
    sent = talk(flow, (9,))
    assert world.traffic(heir) == (0, 2, sent)
