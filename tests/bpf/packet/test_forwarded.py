# SPDX-License-Identifier: Apache-2.0
"""Ways that the programs cannot go alone: clients without a hook, routes that wrap packets.

Clients whose packets came by no hook meet the programs where they leave the node. They sit behind a
device that has no programs: not yet, or because it is of a kind that nobody attaches to. Their
answers have to come to this node, or nobody translates them.
"""

from __future__ import annotations

from typing import Iterator

import pytest

from . import frames
from .frames import Ends
from .hooks import Hooks, Verdict
from .node import LOCAL_POD, MAC, NODE, NODE_B, OUTSIDE, POD, REMOTE_POD, UPLINK, Node, ip_batch
from .scene import NUMBER, SERVED, both, destination, families, outer, send
from .world import CLUSTER_IP, NODE_PORT, PacketWorld

pytestmark = pytest.mark.root

VIP = ("10.96.0.10", "fd00:10:96::a")
ROUTED = ("10.250.1.77", "fd00:10:250:1::4d")
"""No pod by its address, so masqueraded with a local detector."""
POD_LOCAL = ("10.244.1.77", "fd00:10:244:1::4d")


def leaving(protocol: str, ends: Ends, **fields: object) -> bytes:
    """What the stack forwards: the frame is the device's own already."""
    frame = bytearray(frames.frame(frames.packet(protocol, ends, **fields), MAC[UPLINK]))
    frame[6:12] = bytes.fromhex(MAC[UPLINK].replace(":", ""))
    return bytes(frame)


@both
@families
@pytest.mark.parametrize("client", [ROUTED, POD_LOCAL], ids=["routed", "pod-local"])
def test_the_answer_comes_here_and_goes_by_the_routes(
    hooks: Hooks, world: PacketWorld, protocol: str, family: int, client: tuple[str, str]
) -> None:
    """Masqueraded whatever the rules of masquerading say, and not sent back by the uplink, whose
    own MAC the packet had come from."""
    world.service(
        (CLUSTER_IP, VIP[family], 80), remote=[REMOTE_POD[family]], protocol=NUMBER[protocol]
    )
    dialled = Ends(client[family], 40000, VIP[family], 80)
    seen = hooks.egress(UPLINK, leaving(protocol, dialled))
    assert seen.verdict is Verdict.REDIRECT
    inner = frames.ends_of(frames.read(seen.data))
    assert (inner.source, inner.destination) == (NODE[family], REMOTE_POD[family])

    flags = {"flags": "SA"} if protocol == "TCP" else {}
    answer = frames.packet(protocol, inner.reply(), **flags)
    came = hooks.ingress(UPLINK, frames.frame(answer, MAC[UPLINK]))

    assert came.verdict is Verdict.REDIRECT
    assert frames.ends_of(frames.read(came.data)) == dialled.reply()
    assert all(flow.ifindex == 0 for flow in world.flows().values()), "as the routes say"


@both
@families
def test_the_clients_device_gets_programs(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """A flow of the moments before goes on as it began: through the stack, to the same backend in
    the same name."""
    world.service(
        (CLUSTER_IP, VIP[family], 80), remote=[REMOTE_POD[family]], protocol=NUMBER[protocol]
    )
    dialled = Ends(LOCAL_POD[family], 40000, VIP[family], 80)
    inner = frames.ends_of(frames.read(hooks.egress(UPLINK, leaving(protocol, dialled)).data))
    flags = {"flags": "A"} if protocol == "TCP" else {}
    sent = frames.frame(frames.packet(protocol, dialled, **flags), MAC[POD])
    assert hooks.ingress(POD, sent) == (Verdict.UNSPEC, sent)
    left = hooks.egress(UPLINK, leaving(protocol, dialled, **flags))
    assert frames.ends_of(frames.read(left.data)) == inner
    assert world.counted() == {"FLOW_NEW": 1}


@families
def test_a_backend_on_this_node(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """Its answers come by the hook of its device."""
    world.service((CLUSTER_IP, VIP[family], 80), local=[LOCAL_POD[family]])
    dialled = Ends(POD_LOCAL[family], 40000, VIP[family], 80)
    inner = frames.ends_of(frames.read(hooks.egress(UPLINK, leaving("TCP", dialled)).data))
    assert inner.destination == LOCAL_POD[family]
    answer = frames.frame(frames.packet("TCP", inner.reply(), flags="SA"), MAC[POD])
    assert frames.ends_of(frames.read(hooks.ingress(POD, answer).data)) == dialled.reply()


@pytest.fixture
def wrapping(node: Node) -> Iterator[None]:
    """Routes that name a tunnel themselves: to a backend, and to a client."""
    lines = (
        "link add kpbtlw type vxlan external dstport 4790",
        "link set kpbtlw up",
        f"route add 10.246.0.0/24 encap ip id 9 dst {NODE_B[0]} dev kpbtlw",
        f"route add {OUTSIDE[0]}/32 encap ip id 9 dst {NODE_B[0]} dev kpbtlw",
    )
    with node.inside():
        ip_batch(iter(lines))
    yield
    with node.inside():
        ip_batch(iter(("link del kpbtlw",)))


@pytest.mark.usefixtures("wrapping")
def test_a_route_that_wraps_packets(hooks: Hooks, world: PacketWorld) -> None:
    """Only the stack can put a packet into a tunnel that the route itself names (``encap``)."""
    world.service((NODE_PORT, NODE[0], SERVED), remote=["10.246.0.10"])
    seen = send(hooks)
    assert seen.verdict is Verdict.UNSPEC
    assert destination(seen) == "10.246.0.10"
    # Behind the route the node's name is given, as of what is too large for the way straight out.
    left = frames.ends_of(frames.read(hooks.egress(UPLINK, seen.data).data))
    assert (left.source, left.destination) == (NODE[0], "10.246.0.10")


@pytest.mark.usefixtures("wrapping")
@both
def test_a_client_behind_a_route_that_wraps(
    hooks: Hooks, world: PacketWorld, protocol: str
) -> None:
    """Its packets came unwrapped by another device: the answers go back there, whole."""
    world.service((NODE_PORT, NODE[0], SERVED), remote=[REMOTE_POD[0]], protocol=NUMBER[protocol])
    inner = frames.ends_of(frames.read(send(hooks, protocol).data))
    flags = {"flags": "SA"} if protocol == "TCP" else {}
    answer = frames.packet(protocol, inner.reply(), **flags)
    seen = hooks.ingress(UPLINK, frames.frame(answer, MAC[UPLINK]))
    assert seen.verdict is Verdict.REDIRECT
    assert frames.ends_of(frames.read(seen.data)) == outer(0).reply()
    assert seen.data[:6].hex(":") == frames.CLIENT_MAC
