# SPDX-License-Identifier: Apache-2.0
"""Writes Services straight into the maps, as the writer would, for tests of the programs.

Shared by the tests of the socket hooks and of the packet path; works in the test's process and in
its children, for maps are shared.
"""

from __future__ import annotations

import socket
import struct
from functools import cache
from ipaddress import IPv6Address, ip_address
from itertools import count
from typing import Iterable, Sequence

from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.libbpf import BpfMap
from kubeproxy_bpf.plan.records import (
    Backend,
    BackendFlags,
    Frontend,
    FrontendFlags,
    FrontendKey,
    FrontendKind,
    Record,
    RecordFlags,
    Service,
    Slot,
    Vip,
    VipFlags,
)

PORT = 8080
TCP = socket.IPPROTO_TCP
UDP = socket.IPPROTO_UDP
CLUSTER_IP = (VipFlags.CLUSTER_IP, FrontendKind.CLUSTER_IP, 0)
EXTERNAL_IP = (VipFlags.EXTERNAL, FrontendKind.EXTERNAL_IP, FrontendFlags.EXTERNAL)


def mapped(address: str) -> bytes:
    """16 bytes, IPv4 as v4-mapped."""
    parsed = ip_address(address)
    return parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed


def shown(raw: bytes) -> str:
    """The reverse of ``mapped``."""
    address = IPv6Address(raw)
    return str(address.ipv4_mapped or address)


class World:
    """What is programmed, with ids handed out in turn and never reused."""

    hashes: tuple[str, ...] = (
        "kpb_vips",
        "kpb_frontends",
        "kpb_affinity",
        "kpb_sock_flows",
        "kpb_tcp_origin",
    )
    """Hash maps that ``clear`` empties."""

    def __init__(self, datapath: Datapath) -> None:
        self.maps = datapath.maps
        btf = datapath.btf
        self.counters = {
            name.removeprefix("COUNT_"): number
            for name, number in btf.enums["counter"].values.items()
            if name != "COUNT_KINDS"
        }
        self._vip = layout.bind(btf, "vip", Vip)
        self._key = layout.bind(btf, "frontend_key", FrontendKey)
        self._frontend = layout.bind(btf, "frontend", Frontend)
        self._service = layout.bind(btf, "service", Service)
        self._record = layout.bind(btf, "record", Record)
        self._slot = layout.bind(btf, "slot", Slot)
        self._backend = layout.bind(btf, "backend", Backend)
        self._indexes, self._records, self._slots = count(1), count(1), 1
        self._backends: dict[tuple[str, int, int], int] = {}
        self._generations: dict[int, int] = {}

    def clear(self, names: Iterable[str] = ()) -> None:
        """Remove all entries that a test made, or those of some maps, and all counts."""
        for name in names or self.hashes:
            for key in list(self.maps[name].keys()):
                self.maps[name].delete(key)
        if not names:
            self.clear_node_ports()
        per_cpu = self.maps["kpb_counters"].value_bytes
        for number in self.counters.values():
            self.maps["kpb_counters"].update(u32(number), bytes(per_cpu))
        if not names:
            self.clear_traffic()

    def clear_traffic(self) -> None:
        zero(self.maps["kpb_traffic"])

    def clear_node_ports(self) -> None:
        zero(self.maps["kpb_node_ports"])

    # ---- what clients see ----

    def vip(self, address: str, flags: int) -> None:
        """Set the flags of an address; 0 removes it."""
        if flags:
            self.maps["kpb_vips"].update(mapped(address), self._vip.encode(Vip(flags)))
        else:
            self.maps["kpb_vips"].delete(mapped(address))

    def frontend(
        self, address: str, port: int, protocol: int, index: int, kind: int, flags: int = 0
    ) -> None:
        key = self._key.encode(FrontendKey(mapped(address), port, protocol))
        value = self._frontend.encode(Frontend(index, kind, flags))
        self.maps["kpb_frontends"].update(key, value)

    def remove_frontend(self, address: str, port: int, protocol: int) -> None:
        key = self._key.encode(FrontendKey(mapped(address), port, protocol))
        self.maps["kpb_frontends"].delete(key)

    def node_port(self, port: int) -> None:
        """Mark a port in the bitmap."""
        old = self.maps["kpb_node_ports"].lookup(u32(port // 64)) or bytes(8)
        value = int.from_bytes(old, "little") | 1 << port % 64
        self.maps["kpb_node_ports"].update(u32(port // 64), value.to_bytes(8, "little"))

    # ---- what serves them ----

    def backend(self, address: str, flags: int = 0, port: int = PORT, protocol: int = TCP) -> int:
        """Make a backend live and return its id."""
        identity = (address, port, protocol)
        number = self._backends.setdefault(identity, len(self._backends) + 1)
        generation = self._generations.setdefault(number, 1)
        record = Backend(mapped(address), port, protocol, BackendFlags.LIVE | flags, generation)
        self.maps["kpb_backends"].update(u32(number), self._backend.encode(record))
        return number

    def remove_backend(self, address: str, protocol: int = TCP, port: int = PORT) -> None:
        """What happens when the last service lets go of it."""
        number = self._backends[address, port, protocol]
        self._generations[number] += 1
        record = Backend(mapped(address), port, protocol, 0, self._generations[number])
        self.maps["kpb_backends"].update(u32(number), self._backend.encode(record))

    def reuse_backend(self, address: str, other: str, protocol: int = TCP) -> None:
        """Give the id of a removed backend to another one."""
        self.remove_backend(address, protocol)
        self._backends[other, PORT, protocol] = self._backends.pop((address, PORT, protocol))

    def publish(
        self,
        index: int,
        members: Sequence[int],
        *,
        cluster: int | None = None,
        local: tuple[int, int] = (0, 0),
        affinity_s: int = 0,
        flags: int = RecordFlags.HAS_ENDPOINTS,
        generation: int = 1,
    ) -> None:
        """Give a service these backends; ``cluster`` and ``local`` are its two windows."""
        first, self._slots = self._slots, self._slots + len(members)
        for position, member in enumerate(members, first):
            self.maps["kpb_slots"].update(u32(position), self._slot.encode(Slot(member)))
        windows = (len(members) if cluster is None else cluster, *local)
        number = next(self._records)
        record = Record(first, len(members), *windows, affinity_s, flags, index)
        self.maps["kpb_records"].update(u32(number), self._record.encode(record))
        service = Service(number if members or flags >= 0 else 0, generation)
        self.maps["kpb_services"].update(u32(index), self._service.encode(service))

    def unpublish(self, index: int) -> None:
        self.maps["kpb_services"].update(u32(index), self._service.encode(Service(0, 2)))

    def index(self) -> int:
        return next(self._indexes)

    def serve(
        self,
        vip: str,
        backends: Iterable[str],
        *,
        port: int = 80,
        protocol: int = TCP,
        kind: tuple[int, int, int] = CLUSTER_IP,
        backend_flags: int = 0,
        **published: object,
    ) -> int:
        """A whole Service under one address; return its index."""
        vip_flags, frontend_kind, frontend_flags = kind
        index = self.index()
        members = [self.backend(b, backend_flags, protocol=protocol) for b in backends]
        self.publish(index, members, **published)  # type: ignore[arg-type]
        self.frontend(vip, port, protocol, index, frontend_kind, frontend_flags)
        self.vip(vip, vip_flags)
        return index

    # ---- what the programs wrote ----

    def count(self, name: str) -> int:
        """A counter, summed over the processors."""
        raw = self.maps["kpb_counters"].lookup(u32(self.counters[name])) or b""
        return sum(struct.unpack(f"={len(raw) // 8}Q", raw))

    def traffic(self, index: int) -> tuple[int, ...]:
        """Connections, packets and bytes of a service, summed over the processors."""
        raw = self.maps["kpb_traffic"].lookup(u32(index)) or b""
        words = struct.unpack(f"={len(raw) // 8}Q", raw)
        return tuple(sum(words[field::3]) for field in range(3))

    def entries(self, name: str) -> int:
        return sum(1 for _ in self.maps[name].keys())


def u32(number: int) -> bytes:
    return struct.pack("=I", number)


def zero(array: BpfMap) -> None:
    """Set all elements of an array to zeros, in one call."""
    number = array.max_entries
    array.update_batch(_indexes(number), bytes(number * array.value_bytes), number)


@cache
def _indexes(number: int) -> bytes:
    return struct.pack(f"={number}I", *range(number))
