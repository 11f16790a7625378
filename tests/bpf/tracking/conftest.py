# SPDX-License-Identifier: Apache-2.0
"""A flow table in the kernel, laid out as the packet programs declare it, without the programs."""

from __future__ import annotations

from typing import Iterator, NamedTuple

import pytest

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.dataplane.flows import Flow, FlowTable, Tuple, now_ticks
from kubeproxy_bpf.instance import object_path
from kubeproxy_bpf.libbpf import BpfMap, BpfObject, Btf

TCP = 6
CLIENT, VIP, NODE, BACKEND = "192.0.2.1", "10.96.0.1", "192.0.2.10", "10.244.1.1"
ROOM = 8192


@pytest.fixture(scope="session")
def packet_btf() -> Iterator[Btf]:
    bpf_object = BpfObject.open(object_path("packets.bpf.o"))
    try:
        yield bpf_object.btf
    finally:
        bpf_object.close()


class Pair(NamedTuple):
    """Keys of both directions."""

    forward: bytes
    reply: bytes


class Flows:
    """Writes pairs as the programs would."""

    def __init__(self, map: BpfMap, table: FlowTable, alone: int) -> None:
        self.map = map
        self.table = table
        self.alone = alone

    def put(
        self, port: int, forward_ticks: int, reply_ticks: int | None = None, vip: str = VIP
    ) -> Pair:
        """A masqueraded flow; deadlines count from now, None leaves the direction out."""
        outer = self._tuple(CLIENT, port, vip, 80)
        inner = self._tuple(NODE, port, BACKEND, 8080)
        pair = Pair(self.table.keys.encode(outer), self.table.keys.encode(_reversed(inner)))
        self._entry(pair.forward, inner, forward_ticks)
        if reply_ticks is not None:
            self._entry(pair.reply, _reversed(outer), reply_ticks)
        return pair

    def touch(self, key: bytes, ticks: int) -> None:
        """What a packet does."""
        raw = self.map.lookup(key)
        assert raw is not None
        flow = self.table.flows.decode(raw)._replace(deadline=_deadline(ticks))
        self.map.update(key, self.table.flows.encode(flow))

    def put_alone(self, port: int, ticks: int, reverse: bool = False) -> bytes:
        """A flow without partner, left as it is."""
        same = self._tuple(CLIENT, port, NODE, 80)
        same = _reversed(same) if reverse else same
        key = self.table.keys.encode(same)
        self._entry(key, same, ticks, self.alone)
        return key

    def _entry(self, key: bytes, becomes: Tuple, ticks: int, flags: int = 0) -> None:
        ends = becomes[:4]
        flow = Flow(1, _deadline(ticks), *ends, 0, 1, 1, 1, flags, 3)
        self.map.update(key, self.table.flows.encode(flow))

    @staticmethod
    def _tuple(source: str, source_port: int, destination: str, destination_port: int) -> Tuple:
        ends = parse_address(source), parse_address(destination)
        assert ends[0] is not None and ends[1] is not None
        return Tuple(ends[0], ends[1], source_port, destination_port, TCP)

    def __contains__(self, key: bytes) -> bool:
        return self.map.lookup(key) is not None

    @property
    def count(self) -> int:
        return sum(1 for _ in self.map.keys())


def _reversed(ends: Tuple) -> Tuple:
    return Tuple(
        ends.destination, ends.source, ends.destination_port, ends.source_port, ends.protocol
    )


def _deadline(ticks: int) -> int:
    return (now_ticks() + ticks) % (1 << 32)


@pytest.fixture
def flows(packet_btf: Btf) -> Iterator[Flows]:
    bpf_object = BpfObject.open(object_path("packets.bpf.o"))
    try:
        item = bpf_object.maps["kpb_flows"]
        shape = item.type, "kpbt_flows", item.key_size, item.value_size, ROOM, int(item.flags)
    finally:
        bpf_object.close()
    alone = packet_btf.enums["track_flags"].values["TRACK_ALONE"]
    with BpfMap.create(*shape) as real:
        yield Flows(real, FlowTable(real, packet_btf), alone)
