# SPDX-License-Identifier: Apache-2.0
"""The maps of the packet path and what is told of them, without programs."""

from __future__ import annotations

import asyncio
import struct
from types import SimpleNamespace
from typing import Any, Callable, Iterator, Mapping

import pytest

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.config.load import load
from kubeproxy_bpf.dataplane.flows import FlowTable
from kubeproxy_bpf.dataplane.node import NodeFacts
from kubeproxy_bpf.instance import object_path
from kubeproxy_bpf.libbpf import BpfMap, BpfObject, Btf
from kubeproxy_bpf.model.types import Protocol, ServicePortId
from kubeproxy_bpf.packet_state import NoPacketState, PacketState, packet_state
from kubeproxy_bpf.serve.flows import FlowReading
from kubeproxy_bpf.serve.services import ServiceReading, ServicesReading
from kubeproxy_bpf.service_counts import CountedServices

from .conftest import VIP, Flows

pytestmark = pytest.mark.root

WEB = ServicePortId("service", "ns", "web", "http", Protocol.TCP, 4)


@pytest.fixture
def datapath(packet_btf: Btf) -> Iterator[Any]:
    """The maps as the programs declare them, but small."""
    maps: dict[str, BpfMap] = {}
    bpf_object = BpfObject.open(object_path("packets.bpf.o"))
    try:
        for name in ("kpb_flows", "kpb_node", "kpb_stats", "kpb_traffic"):
            item = bpf_object.maps[name]
            room = item.max_entries if name == "kpb_node" else 64
            maps[name] = BpfMap.create(
                item.type, name, item.key_size, item.value_size, room, int(item.flags)
            )
        yield SimpleNamespace(maps=maps, btf=packet_btf)
    finally:
        bpf_object.close()
        for real in maps.values():
            real.close()


class Lingering:
    """The part of a programmer that knows of addresses which stay for the sake of flows alone."""

    def __init__(self, *addresses: bytes) -> None:
        self.lingering = dict.fromkeys(addresses, 1)

    async def forget(self, addresses: Mapping[bytes, int]) -> None:
        for address in addresses:
            del self.lingering[address]


@pytest.fixture
def made(datapath: Any) -> Callable[..., NoPacketState]:
    def make(programmer: Any = Lingering(), at_work: Any = None) -> NoPacketState:
        packets: Any = SimpleNamespace(datapath=datapath)
        return packet_state(packets, programmer, at_work or asyncio.Event())

    return make


@pytest.fixture
def state(made: Callable[..., NoPacketState]) -> NoPacketState:
    state = made()
    assert isinstance(state, PacketState)
    return state


def test_the_table_is_told_of(state: NoPacketState) -> None:
    """Before the first sweep nothing is known but its size."""
    assert state.reading() == FlowReading(0, 64, 0)


async def test_no_address_goes_before_the_flows_are_there(
    datapath: Any, made: Callable[..., NoPacketState]
) -> None:
    """A table that takes the place of another is empty until the programs are exchanged: the
    connections of Services that are deleted by then go on after it."""
    flows = Flows(
        datapath.maps["kpb_flows"], FlowTable(datapath.maps["kpb_flows"], datapath.btf), 0
    )
    address = parse_address(VIP)
    assert address is not None
    programmer, at_work = Lingering(address), asyncio.Event()
    state = made(programmer, at_work)
    sweeping = asyncio.create_task(state.run())
    try:
        await asyncio.sleep(0.2)
        assert address in programmer.lingering
        flows.put(1, 1000, 1000)
        at_work.set()
        async with asyncio.timeout(10):
            while not state.reading().entries:
                await asyncio.sleep(0.01)
    finally:
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)
    assert address in programmer.lingering


@pytest.fixture
def count(datapath: Any) -> Iterator[Callable[..., ServicesReading]]:
    """What is read with these flags, once programs counted for WEB."""
    datapath.maps["kpb_stats"].update(struct.pack("=I", 3), struct.pack("=3Q", 7, 2, 1))
    traffic = struct.pack("=3Q", 1, 20, 3000) + bytes(datapath.maps["kpb_traffic"].value_bytes)
    size = datapath.maps["kpb_traffic"].value_bytes
    datapath.maps["kpb_traffic"].update(struct.pack("=I", 3), traffic[:size])
    programmer: Any = SimpleNamespace(owners={3: WEB})
    made = []

    def read(*flags: str, packets: bool = True) -> ServicesReading:
        config = load(["--hostname-override=n", *flags])
        counted = CountedServices(config, datapath, datapath if packets else None, programmer)
        made.append(counted)
        return counted.reading()

    yield read
    for counted in made:
        counted.close()


LABELS = "ns", "web", "http", "TCP", "IPv4"


def test_a_service_port_is_named_as_people_know_it(count: Callable[..., ServicesReading]) -> None:
    """The labels are those of the Service, not of the dataplane; traffic only where asked for."""
    services = (ServiceReading(LABELS, 7, 2, 1, 7, 0, 0),)

    assert count() == ServicesReading(True, False, services)
    assert count("--bpf-service-metrics=0") == ServicesReading(True, False)


def test_traffic_is_read_where_it_is_asked_for(count: Callable[..., ServicesReading]) -> None:
    """Connections are those of sockets and those by packet."""
    (service,) = count("--bpf-service-traffic").services

    assert service == ServiceReading(LABELS, 7, 2, 1, 8, 20, 3000)


def test_without_packet_programs_sockets_still_count(
    count: Callable[..., ServicesReading],
) -> None:
    """A kernel that refuses them has no stats; connections of sockets do not come from there."""
    assert count(packets=False) == ServicesReading(False, False)
    services = (ServiceReading(LABELS, 0, 0, 0, 1, 20, 3000),)
    assert count("--bpf-service-traffic", packets=False) == ServicesReading(False, True, services)


def test_the_node_is_written_where_the_programs_look(datapath: Any, state: NoPacketState) -> None:
    """The programs read the first and only entry."""
    address = parse_address("192.0.2.1")
    state.node_known(NodeFacts(address))

    assert datapath.maps["kpb_node"].lookup(bytes(4))[:16] == address


def test_without_programs_nothing_is_known_and_nothing_done() -> None:
    """A kernel that refuses the packet programs still gets the sockets."""
    made = packet_state(None, None, asyncio.Event())  # type: ignore[arg-type]
    made.node_known(NodeFacts())

    assert made.reading() == FlowReading()
