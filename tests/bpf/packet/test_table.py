# SPDX-License-Identifier: Apache-2.0
"""The table of packets through the programs: model, planner, writer, maps and C code in one go.

Each row is sent as new flows until all targets that it names were seen; none may be seen that it
does not name. What comes out is compared with the packet that scapy builds, byte for byte.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network
from typing import Callable, NamedTuple

import pytest

from kubeproxy_bpf.dataplane.writer import Writer
from kubeproxy_bpf.model.cluster import Changes
from kubeproxy_bpf.plan.planner import Planner
from tests.flows.packets import (
    PACKET_FLOWS,
    SERVICE_CIDRS,
    Option,
    Outcome,
    PacketFlow,
    Sender,
    Target,
    Way,
)
from tests.flows.settings import config_flags, detected_networks
from tests.flows.table import WORLD
from tests.golden.scenario import Scenario, documents

from . import frames
from .conftest import MIDDLE, SNAT, Loaded, settings
from .frames import Ends
from .hooks import Hooks, Seen, Verdict
from .node import MAC, NODE, POD, POD_2, UPLINK, Node
from .world import PacketWorld

pytestmark = pytest.mark.root

ENOUGH, PATIENCE = 8, 48
DEVICES = {Sender.POD: POD_2, Sender.STRAY_POD: POD_2, Sender.BACKEND: POD}
HOST_SENDERS = (Sender.HOST, Sender.HOST_LOOPBACK)
ON_NODE = ("198.51.100.2", *NODE, "127.0.0.1", "127.1.2.3", "::1")
"""Addresses that the node has itself: what its sockets send there arrives by lo."""
LOOPBACK, NO_MAC = "lo", "00:00:00:00:00:00"
LOCAL_NETWORKS = ("10.244.1.", "fd00:10:244:1:")


class Prepared(NamedTuple):
    hooks: Hooks
    world: PacketWorld


@pytest.fixture(scope="module")
def changes() -> Changes:
    scenario = Scenario()
    for document in documents(WORLD.read_text()):
        scenario.apply(document)
    return scenario.model.take().changes


@pytest.fixture(scope="module")
def prepared(
    node: Node, loaded: Loaded, changes: Changes
) -> Callable[[tuple[Option, ...]], Prepared]:
    """Gives programs with the settings of a row, and the cluster in their maps."""
    cache: dict[tuple[Option, ...], Prepared] = {}

    def get(options: tuple[Option, ...]) -> Prepared:
        if options not in cache:
            datapath = loaded(settings(config_flags(options)), bare_ip=False)
            world = PacketWorld(datapath, node.ifindex)
            world.prepare()
            world.clear(("kpb_vips",))
            world.node(detected_networks(options), SERVICE_CIDRS)
            writer = Writer(datapath.maps, datapath.btf)
            applied = asyncio.run(writer.apply(Planner(writer.capacity).plan(changes)))
            assert not applied.failed
            writer.close()
            cache[options] = Prepared(Hooks(node, datapath.programs), world)
        cache[options].world.forget()
        return cache[options]

    return get


@pytest.mark.parametrize("flow", PACKET_FLOWS, ids=str)
def test_flow_ends_where_the_table_says(
    flow: PacketFlow, prepared: Callable[[tuple[Option, ...]], Prepared]
) -> None:
    """Each row: exactly these targets get the flow, or exactly this happens, and is counted."""
    hooks, world = prepared(flow.options)
    seen: set[Target | Outcome] = set()
    expected = flow.expected if isinstance(flow.expected, frozenset) else {flow.expected}
    for number in range(PATIENCE):
        seen.add(_send(hooks, flow, 40000 + number))
        if number >= ENOUGH and seen >= expected:
            break
    assert seen == expected
    counted = world.counted()
    if flow.counter != "NONE":
        assert counted.pop(flow.counter) == number + 1
    counted.pop("FLOW_NEW", 0)
    assert not counted


def _send(hooks: Hooks, flow: PacketFlow, port: int) -> Target | Outcome:
    """Send the first packet of a flow, and say what became of it."""
    device = DEVICES.get(flow.sender, UPLINK)
    host = flow.sender in HOST_SENDERS
    if host and flow.address in ON_NODE:
        device = LOOPBACK
    ends = Ends(flow.source, port, flow.address, flow.port)
    sent = frames.frame(frames.packet(flow.protocol, ends), MAC.get(device, NO_MAC))
    leaves = host and device is not LOOPBACK
    seen = (hooks.egress if leaves else hooks.ingress)(device, sent)
    if seen == Seen(Verdict.UNSPEC, sent) and _leaves_by_default(flow):
        seen = hooks.egress(UPLINK, sent)
    if seen.data == sent:
        return {Verdict.UNSPEC: Outcome.LEFT_ALONE, Verdict.DROP: Outcome.DROPPED}[seen.verdict]
    came = frames.read(seen.data)
    if (came.src, came.dst) == (ends.destination, ends.source):
        assert seen.verdict is Verdict.REDIRECT
        return Outcome.REJECTED
    return _target(hooks, flow, ends, seen)


def _leaves_by_default(flow: PacketFlow) -> bool:
    """What nobody translates goes where all goes that no route knows: out again."""
    if flow.counter == "ON_DEVICE":
        return False
    address = ip_address(flow.address)
    return any(address in ip_network(cidr) for cidr in SERVICE_CIDRS)


def _target(hooks: Hooks, flow: PacketFlow, ends: Ends, seen: Seen) -> Target:
    """Who gets a packet that was changed; proves that nothing else was."""
    came = frames.ends_of(frames.read(seen.data))
    if seen.verdict is Verdict.REDIRECT:
        _check_bytes(flow, came, seen.data, frames.TTL - (flow.sender not in HOST_SENDERS))
        dsr = came == ends
        masqueraded = came[:2] != ends[:2]
        if masqueraded:
            _check_masquerade(flow, came)
        backend = _backend_of_dsr(flow) if dsr else _backend(came)
        return Target(backend, Way.DSR if dsr else Way.DIRECT, masqueraded)
    assert seen.verdict is Verdict.UNSPEC and came.source == ends.source
    _check_bytes(flow, came, seen.data)
    device = POD if came.destination.startswith(LOCAL_NETWORKS) else UPLINK
    left = hooks.egress(device, seen.data)
    gone = frames.ends_of(frames.read(left.data))
    _check_bytes(flow, gone, left.data)
    assert left.verdict is Verdict.UNSPEC and gone[2:] == came[2:]
    if gone != came:
        _check_masquerade(flow, gone)
    if gone != came and flow.protocol == "UDP":
        assert came.source_port in MIDDLE
    else:
        assert came.source_port == ends.source_port
    return Target(_backend(came), Way.STACK, gone != came)


def _check_bytes(flow: PacketFlow, ends: Ends, data: bytes, ttl: int = frames.TTL) -> None:
    built = frames.packet(flow.protocol, ends, ttl)
    assert data[14:].hex() == frames.raw(built).hex()


def _check_masquerade(flow: PacketFlow, ends: Ends) -> None:
    assert ends.source == NODE[":" in flow.address]
    assert ends.source_port in SNAT or flow.protocol == "SCTP"


def _backend(ends: Ends) -> str:
    separator = " " if ":" in ends.destination else ":"
    return f"{ends.destination}{separator}{ends.destination_port}"


def _backend_of_dsr(flow: PacketFlow) -> str:
    """A packet that is not changed does not say who gets it; the table's rows have one target."""
    assert isinstance(flow.expected, frozenset)
    (target,) = flow.expected
    return target.backend
