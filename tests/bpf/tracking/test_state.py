# SPDX-License-Identifier: Apache-2.0
"""The maps of the packet path and what is told of them, without programs."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, Iterator

import pytest

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.dataplane.node import NodeFacts
from kubeproxy_bpf.instance import object_path
from kubeproxy_bpf.libbpf import BpfMap, BpfObject, Btf
from kubeproxy_bpf.model.types import Protocol, ServicePortId
from kubeproxy_bpf.packet_state import NoPacketState, PacketState, packet_state
from kubeproxy_bpf.serve.flows import FlowReading, ServiceReading

pytestmark = pytest.mark.root

WEB = ServicePortId("service", "ns", "web", "http", Protocol.TCP, 4)


@pytest.fixture
def datapath(packet_btf: Btf) -> Iterator[Any]:
    """The maps as the programs declare them, but small."""
    maps: dict[str, BpfMap] = {}
    bpf_object = BpfObject.open(object_path("packets.bpf.o"))
    try:
        for name in ("kpb_flows", "kpb_node", "kpb_stats"):
            item = bpf_object.maps[name]
            room = min(item.max_entries, 64)
            maps[name] = BpfMap.create(
                item.type, name, item.key_size, item.value_size, room, int(item.flags)
            )
        yield SimpleNamespace(maps=maps, btf=packet_btf)
    finally:
        bpf_object.close()
        for real in maps.values():
            real.close()


@pytest.fixture
def state(datapath: Any) -> Iterator[NoPacketState]:
    planner = SimpleNamespace(owners={3: WEB})
    programmer: Any = SimpleNamespace(planner=planner, lingering={})
    programmer.forget = None
    packets: Any = SimpleNamespace(datapath=datapath)
    made = packet_state(packets, programmer, 10)
    assert isinstance(made, PacketState)
    yield made
    made.close()


def test_a_service_port_is_named_as_people_know_it(datapath: Any, state: NoPacketState) -> None:
    """The labels are those of the Service, not of the dataplane."""
    datapath.maps["kpb_stats"].update(struct.pack("=I", 3), struct.pack("=3Q", 7, 2, 1))

    labels = "ns", "web", "http", "TCP", "IPv4"
    assert state.reading() == FlowReading(0, 64, 0, (ServiceReading(labels, 7, 2, 1),))


def test_the_node_is_written_where_the_programs_look(datapath: Any, state: NoPacketState) -> None:
    """The programs read the first and only entry."""
    address = parse_address("192.0.2.1")
    state.node_known(NodeFacts(address))

    assert datapath.maps["kpb_node"].lookup(bytes(4))[:16] == address


def test_without_programs_nothing_is_known_and_nothing_done() -> None:
    """A kernel that refuses the packet programs still gets the sockets."""
    made = packet_state(None, None, 10)  # type: ignore[arg-type]
    made.node_known(NodeFacts())

    assert made.reading() == FlowReading()
    made.close()
