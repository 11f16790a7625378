# SPDX-License-Identifier: Apache-2.0
"""Where something runs out: ports, room for flows, answers. And DSR, whose programs are these."""

from __future__ import annotations

import socket
import time
from typing import Iterator

import pytest

from kubeproxy_bpf.dataplane.convert import Conversion, Move
from kubeproxy_bpf.dataplane.flowcopy import FlowCopy
from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.dataplane.settings import ConfigFlags
from kubeproxy_bpf.dataplane.statecopy import Form
from kubeproxy_bpf.libbpf import BpfMap, MapType

from ..queues import pop_all
from . import frames
from .conftest import DETECTOR, MIDDLE, load, settings
from .conversation import Conversation
from .frames import Ends
from .hooks import Hooks, Seen, Verdict
from .node import (
    LOCAL_POD,
    MAC,
    NARROW_POD,
    NODE,
    OUTSIDE,
    REMOTE_POD,
    UPLINK,
    Node,
)
from .world import CLUSTER_IP, LOAD_BALANCER, NODE_PORT, STATES, PacketWorld, text

pytestmark = pytest.mark.root

SERVED = 30080
PORTS, ROOM, ANSWERS = 4, 64, 10
families = pytest.mark.parametrize("family", (0, 1), ids=("ipv4", "ipv6"))


@pytest.fixture(scope="module")
def small(node: Node) -> Iterator[Datapath]:
    """Programs with little of everything, and with direct server return."""
    flags = DETECTOR | ConfigFlags.DSR_TCP | ConfigFlags.DSR_UDP
    wanted = settings(flags, snat_count=PORTS, middle_count=1, rejects_per_s=ANSWERS)
    with load(node, wanted, bare_ip=False, kpb_flows=ROOM, kpb_flow_queue=ROOM) as made:
        yield made


@pytest.fixture
def datapath(small: Datapath) -> Datapath:
    return small


def client(family: int, number: int) -> Ends:
    return Ends(OUTSIDE[family], 1000 + number, NODE[family], SERVED)


def send(hooks: Hooks, outer: Ends, protocol: str = "TCP", **fields: object) -> Seen:
    content = frames.packet(protocol, outer, **fields)
    return hooks.ingress(UPLINK, frames.frame(content, MAC[UPLINK]))


# ---- ports ----


@families
@pytest.mark.parametrize("protocol", ("TCP", "UDP"))
def test_ports_are_given_for_each_backend(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str
) -> None:
    """All ports of the range are given, each once; the next flow is refused, others go on.

    Only flows that both sides agreed to hold their port against new ones.
    """
    number = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP}[protocol]
    address = REMOTE_POD[family]
    index = world.service((NODE_PORT, NODE[family], SERVED), remote=[address], protocol=number)
    talks = [
        Conversation(
            hooks,
            protocol,
            client(family, n),
            (address, 8080),
            UPLINK,
            UPLINK,
            NODE[family],
            direct=True,
        )
        for n in range(PORTS)
    ]
    more = {"flags": "A"} if protocol == "TCP" else {}
    for talk in talks:
        talk.ask()
        talk.answer()
        talk.ask(**more)
    held = {talk.inner.source_port for talk in talks if talk.inner}
    assert held == set(range(20000, 20000 + PORTS))
    for _ in range(2):
        assert send(hooks, client(family, 99), protocol).verdict is Verdict.DROP
    assert world.counted() == {"FLOW_NEW": PORTS, "SNAT_EXHAUSTED": 2}
    assert world.stats(index) == (PORTS, 2, 0)
    for talk in talks:
        talk.answer()
    # Another backend has all ports again.
    world.service((NODE_PORT, NODE[family], 30081), remote=[NARROW_POD[family]], protocol=number)
    assert send(hooks, client(family, 99).to(NODE[family], 30081), protocol).verdict is (
        Verdict.REDIRECT
    )


@families
def test_without_a_port_apart_a_datagram_keeps_its_own(
    hooks: Hooks, world: PacketWorld, family: int
) -> None:
    """To be told apart is good, to be served is better."""
    world.service((NODE_PORT, NODE[family], SERVED), local=[LOCAL_POD[family]], protocol=17)
    seen = [send(hooks, client(family, number), "UDP") for number in range(2)]
    ports = [frames.ends_of(frames.read(each.data)).source_port for each in seen]
    assert ports == [MIDDLE.start, 1001]


@families
def test_an_unanswered_flow_gives_its_port_away(
    hooks: Hooks, world: PacketWorld, family: int
) -> None:
    """SYNs that nobody answers within a second take no port from those who come after them."""
    world.service((NODE_PORT, NODE[family], SERVED), remote=[REMOTE_POD[family]])
    for turn in range(2):
        time.sleep(1.3 * turn)
        for number in range(PORTS):
            seen = send(hooks, client(family, turn * PORTS + number))
            assert seen.verdict is Verdict.REDIRECT
    assert not world.count("SNAT_EXHAUSTED")


def test_a_dead_flow_gives_its_port_back(hooks: Hooks, world: PacketWorld) -> None:
    """A port whose flow is past its time is given again."""
    world.service((NODE_PORT, NODE[0], SERVED), remote=[REMOTE_POD[0]])
    for n in range(PORTS):
        send(hooks, client(0, n))
    for key in world.flows():
        world.expire(key)
    assert send(hooks, client(0, 99)).verdict is Verdict.REDIRECT


# ---- room ----


def addressed(number: int, source: str = "203.0.113.") -> Ends:
    """Clients to many backends, so that ports suffice."""
    return Ends(f"{source}{number % 200}", 2000 + number, NODE[0], SERVED)


@pytest.fixture
def many_backends(world: PacketWorld) -> None:
    world.service((NODE_PORT, NODE[0], SERVED), remote=[f"10.244.2.{n}" for n in range(1, 250)])


def establish(hooks: Hooks, outer: Ends) -> Ends:
    """A connection, as its backend sees it."""
    seen = send(hooks, outer)
    assert seen.verdict is Verdict.REDIRECT
    inner = frames.ends_of(frames.read(seen.data))
    back = frames.packet("TCP", inner.reply(), flags="SA")
    assert hooks.ingress(UPLINK, frames.frame(back, MAC[UPLINK])).verdict is Verdict.REDIRECT
    assert send(hooks, outer, flags="A").verdict is Verdict.REDIRECT
    return inner


@pytest.mark.usefixtures("many_backends")
def test_a_scan_costs_no_connection(hooks: Hooks, world: PacketWorld) -> None:
    """A thousand SYNs in a full table: most find room, none of what is established is lost."""
    kept = [addressed(n) for n in range(ROOM // 4)]
    inner = [establish(hooks, outer) for outer in kept]
    for n in range(1000, 2000):
        send(hooks, addressed(n))
    assert world.count("FLOWS_RECYCLED") > 800
    # A flow may find room that another processor has not given back yet.
    needed = 1000 - ROOM // 4
    assert needed - 4 <= world.count("FLOWS_RECYCLED") + world.count("FLOWS_FULL") <= needed
    for outer, behind in zip(kept, inner, strict=True):
        came = frames.ends_of(frames.read(send(hooks, outer, flags="A").data))
        assert came == behind
    states = [STATES[flow.state] for flow in world.flows().values()]
    assert states.count("TCP_ESTABLISHED") == 2 * len(kept)


@pytest.mark.usefixtures("many_backends")
def test_no_room_at_all(hooks: Hooks, world: PacketWorld) -> None:
    """Full of established connections: new ones are refused and counted, the old ones go on."""
    kept = [addressed(n) for n in range(ROOM // 2)]
    inner = [establish(hooks, outer) for outer in kept]
    assert len(world.flows()) == ROOM
    for n in range(50):
        assert send(hooks, addressed(1000 + n)).verdict is Verdict.DROP
    assert world.counted() == {"FLOW_NEW": ROOM // 2, "FLOWS_FULL": 50}
    for outer, behind in zip(kept, inner, strict=True):
        assert frames.ends_of(frames.read(send(hooks, outer, flags="A").data)) == behind
    for key in world.flows():
        world.expire(key)
    assert send(hooks, addressed(2000)).verdict is Verdict.REDIRECT


@pytest.mark.usefixtures("many_backends")
def test_what_was_copied_gives_way(hooks: Hooks, world: PacketWorld, small: Datapath) -> None:
    """A table that takes the place of another, full of a scan: the queue knows whom to judge."""
    for n in range(ROOM // 2):
        send(hooks, addressed(n))
    table, queue = world.maps["kpb_flows"], world.maps["kpb_flow_queue"]
    sizes = table.key_size, table.value_size
    form = Form(*(Conversion(size, size, [Move(0, 0, size)]) for size in sizes))
    with BpfMap.create(MapType.HASH, "kpbt_old", *sizes, ROOM) as old:
        for entry in table.items():
            old.update(*entry)
        world.forget()
        pop_all(queue)
        assert FlowCopy(old, table, form, small.btf, queue).first() > ROOM // 2

    for n in range(ROOM // 4):
        establish(hooks, addressed(1000 + n))

    assert world.count("FLOWS_RECYCLED") and not world.count("FLOWS_FULL")
    assert_paired(world)


@pytest.mark.usefixtures("many_backends")
def test_partners_go_together(hooks: Hooks, world: PacketWorld) -> None:
    """However full the table is: an entry's partner is there, and undoes it."""
    for n in range(300):
        send(hooks, addressed(n))
        if n % 3 == 0:
            send(hooks, addressed(n), "UDP")
    assert_paired(world)


def assert_paired(world: PacketWorld) -> None:
    flows = world.flows()
    assert flows
    for key, flow in flows.items():
        partner = flows.get(world.partner(key, flow))
        assert partner is not None, text(key)
        assert world.partner(world.partner(key, flow), partner) == key


# ---- answers ----


def test_answers_have_a_limit(hooks: Hooks, world: PacketWorld) -> None:
    """Beyond the limit packets are dropped instead of answered, and counted."""
    world.service((CLUSTER_IP, "10.96.0.6", 80), flags=0)
    outer = Ends(OUTSIDE[0], 1, "10.96.0.6", 80)
    frame = frames.frame(frames.packet("TCP", outer), MAC[UPLINK])
    seen = [hooks.ingress(UPLINK, frame).verdict for _ in range(200)]
    assert seen.count(Verdict.REDIRECT) < 150
    assert seen.count(Verdict.DROP) == world.count("REJECTS_LIMITED")


# ---- direct server return ----


@families
@pytest.mark.parametrize("protocol", ("TCP", "UDP"))
def test_dsr(hooks: Hooks, world: PacketWorld, family: int, protocol: str) -> None:
    """The packet goes unchanged to the next hop on the way to the backend, the same each time."""
    number = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP}[protocol]
    vip = ("198.51.100.9", "2001:db8::9")[family]
    world.service((LOAD_BALANCER, vip, 80), remote=[REMOTE_POD[family]], protocol=number)
    outer = client(family, 1).to(vip, 80)
    for flags in ("S", "A", "PA", "FA"):
        fields = {"flags": flags} if protocol == "TCP" else {}
        seen = send(hooks, outer, protocol, **fields)
        assert seen.verdict is Verdict.REDIRECT
        assert frames.difference(seen.data, frames.packet(protocol, outer, 63, **fields)) == ""
    assert len(world.flows()) == 1
    assert world.count("DSR") == 1
    frame = frames.frame(frames.packet(protocol, outer), MAC[UPLINK])
    assert hooks.xdp(UPLINK, frame) == (Verdict.UNSPEC, frame)


@families
def test_dsr_to_a_local_backend(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """The backend's node serves the flow as any other, and keeps the client's address."""
    vip, pod = ("198.51.100.9", "2001:db8::9")[family], ("10.244.1.10", "fd00:10:244:1::a")[family]
    world.service((LOAD_BALANCER, vip, 80), local=[pod])
    outer = client(family, 1).to(vip, 80)
    talk = Conversation(hooks, "TCP", outer, (pod, 8080), UPLINK, "pod0")
    talk.ask()
    talk.answer()
