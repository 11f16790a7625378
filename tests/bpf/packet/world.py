# SPDX-License-Identifier: Apache-2.0
"""What the packet programs read beside the Services: devices, node, source ranges; and flows."""

from __future__ import annotations

import struct
from ipaddress import ip_network
from typing import Iterable, NamedTuple, Sequence

from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.dataplane.flows import Flow, Tuple
from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.plan.records import (
    BackendFlags,
    FrontendFlags,
    FrontendKind,
    RecordFlags,
    VipFlags,
)
from tests.bpf.world import PORT, TCP, World, mapped, shown, u32, zero

from . import node as places

CLUSTER_IP, EXTERNAL_IP, LOAD_BALANCER, NODE_PORT, HOST_PORT = FrontendKind
EXTERNAL_LOCAL = RecordFlags.HAS_ENDPOINTS | RecordFlags.EXTERNAL_LOCAL
INTERNAL_LOCAL = RecordFlags.HAS_ENDPOINTS | RecordFlags.INTERNAL_LOCAL

DEVICE_POD, DEVICE_POD_LOCAL, DEVICE_ETHERNET, DEVICE_XDP_TARGET = (1 << bit for bit in range(4))
DEVICE_PEER = 1 << 4
TRACK_REPLY, TRACK_EGRESS, TRACK_DIRECT, TRACK_HOST = (1 << bit for bit in range(4))
TRACK_PASS, TRACK_DSR, TRACK_FIN = (1 << bit for bit in range(4, 7))
STATES = (
    "NONE TCP_NEW TCP_REPLIED TCP_ESTABLISHED TCP_CLOSING TCP_TIME_WAIT TCP_CLOSED UDP_NEW "
    "UDP_REPLIED OTHER"
).split()
WILDCARDS = ("0.0.0.0", "::")
DETECTED_PODS = ("10.244.1.0/24", "fd00:10:244:1::/64")

_VIP_FLAGS = {
    CLUSTER_IP: VipFlags.CLUSTER_IP,
    EXTERNAL_IP: VipFlags.EXTERNAL,
    LOAD_BALANCER: VipFlags.EXTERNAL,
}


class Device(NamedTuple):
    ipv4: bytes
    ipv6: bytes
    mac: bytes
    flags: int
    mtu: int


class NodeFacts(NamedTuple):
    ipv4: bytes
    ipv6: bytes
    pods_ipv4: bytes
    pods_ipv6: bytes
    service_cidr: bytes
    service_cidrs: int


class PacketWorld(World):
    """The world of sockets, and what only packets need."""

    hashes = (*World.hashes, "kpb_flows", "kpb_fragments", "kpb_devices", "kpb_source_ranges")

    def __init__(self, datapath: Datapath, ifindex: dict[str, int]) -> None:
        super().__init__(datapath)
        self.ifindex = ifindex
        self._device = layout.bind(datapath.btf, "device", Device)
        self._node = layout.bind(datapath.btf, "node", NodeFacts)
        self._tuple = layout.bind(datapath.btf, "tuple", Tuple)
        self._flow = layout.bind(datapath.btf, "flow", Flow)

    def prepare(self, detect: Sequence[str] = DETECTED_PODS) -> None:
        """An empty world of this node; ``detect`` are the networks of the local detector."""
        self.clear()
        self.forget()
        self.node(detect=detect)
        ethernet = DEVICE_ETHERNET
        self.device(places.UPLINK, ethernet | DEVICE_XDP_TARGET, places.NODE)
        self.device(places.UPLINK_SECOND, ethernet | DEVICE_XDP_TARGET, places.NODE_SECOND)
        self.device(places.TUNNEL, 0, places.NODE)
        for pod in (places.POD, places.POD_2):
            self.device(pod, ethernet | DEVICE_POD | DEVICE_PEER, ("0.0.0.0", "::"))
        self.device("lo", DEVICE_ETHERNET, ("0.0.0.0", "::"))
        for address in (*places.NODE, *places.NODE_SECOND):
            self.vip(address, VipFlags.NODE_PORT | VipFlags.HOST_PORT)

    def forget(self) -> None:
        """Remove what the programs wrote."""
        self.clear(("kpb_flows", "kpb_fragments", "kpb_affinity"))
        zero(self.maps["kpb_stats"])

    # ---- the node ----

    def device(self, name: str, flags: int, addresses: Sequence[str]) -> None:
        ipv4, ipv6 = (_address_or_none(address) for address in addresses)
        mac = bytes.fromhex(places.MAC.get(name, "00:00:00:00:00:00").replace(":", ""))
        mtu = 65536 if name == "lo" else places.MTU
        raw = self._device.encode(Device(ipv4, ipv6, mac, flags, mtu))
        self.maps["kpb_devices"].update(u32(self.ifindex[name]), raw)

    def no_device(self, name: str) -> None:
        """It went, as far as user space tells."""
        self.maps["kpb_devices"].delete(u32(self.ifindex[name]))

    def node(
        self, detect: Sequence[str] = DETECTED_PODS, service_cidrs: Iterable[str] = ()
    ) -> None:
        pods = {":" in network: prefix(network) for network in detect}
        cidrs = [prefix(network) for network in service_cidrs]
        facts = NodeFacts(
            mapped(places.NODE[0]),
            mapped(places.NODE[1]),
            pods.get(False, bytes(32)),
            pods.get(True, bytes(32)),
            b"".join(cidrs).ljust(128, b"\0"),
            len(cidrs),
        )
        self.maps["kpb_node"].update(u32(0), self._node.encode(facts))

    def source_range(self, service: int, network: str, allow: bool = True) -> None:
        """Let a network use the Service, or no more."""
        parsed = ip_network(network)
        bits = 32 + parsed.prefixlen + (96 if parsed.version == 4 else 0)
        key = struct.pack("=II", bits, service) + mapped(str(parsed.network_address))
        if allow:
            self.maps["kpb_source_ranges"].update(key, struct.pack("=I", 1))
        else:
            self.maps["kpb_source_ranges"].delete(key)

    # ---- services ----

    def service(
        self,
        *fronts: tuple[FrontendKind, str, int],
        local: Sequence[str] = (),
        remote: Sequence[str] = (),
        protocol: int = TCP,
        port: int = PORT,
        flags: int | None = None,
        affinity_s: int = 0,
        frontend_flags: int = 0,
        backend_flags: int = 0,
    ) -> int:
        """A Service with these frontends; its cluster set is all, its local set the local ones.

        The address of a node port does not matter, only its family.
        """
        index = self.index()
        members = [
            self.backend(address, BackendFlags.LOCAL | backend_flags, port, protocol)
            for address in local
        ]
        members += [self.backend(address, 0, port, protocol) for address in remote]
        if flags is None:
            flags = RecordFlags.HAS_ENDPOINTS if members else 0
        window = (0, len(local))
        self.publish(index, members, local=window, affinity_s=affinity_s, flags=flags)
        for kind, address, number in fronts:
            self._front(kind, address, number, protocol, index, frontend_flags)
        return index

    def _front(
        self, kind: FrontendKind, address: str, port: int, protocol: int, index: int, flags: int
    ) -> None:
        if kind != CLUSTER_IP:
            flags |= FrontendFlags.EXTERNAL
        if kind in _VIP_FLAGS:
            self.vip(address, _VIP_FLAGS[kind])
        elif kind == NODE_PORT or address in WILDCARDS:
            self.node_port(port)
            address = WILDCARDS[":" in address]
        self.frontend(address, port, protocol, index, kind, flags)

    # ---- what the programs wrote ----

    def flows(self) -> dict[Tuple, Flow]:
        table = self.maps["kpb_flows"]
        found = ((key, table.lookup(key)) for key in list(table.keys()))
        return {self._tuple.decode(k): self._flow.decode(v) for k, v in found if v}

    def flow(self, key: Tuple) -> Flow | None:
        raw = self.maps["kpb_flows"].lookup(self._tuple.encode(key))
        return self._flow.decode(raw) if raw else None

    @staticmethod
    def partner(key: Tuple, flow: Flow) -> Tuple:
        """The key of the entry that undoes this one."""
        return Tuple(
            flow.destination,
            flow.source,
            flow.destination_port,
            flow.source_port,
            key.protocol,
        )

    def change(self, key: Tuple, **fields: int) -> None:
        """Make an entry what no packet makes it at once."""
        raw = self._tuple.encode(key)
        found = self.maps["kpb_flows"].lookup(raw)
        assert found
        changed = self._flow.decode(found)._replace(**fields)
        self.maps["kpb_flows"].update(raw, self._flow.encode(changed))

    def expire(self, key: Tuple) -> None:
        """Make an entry as old as can be."""
        self.change(key, deadline=1)

    def encoded(self, key: Tuple) -> bytes:
        """The key as the map has it."""
        return self._tuple.encode(key)

    def make_void(self, key: Tuple) -> None:
        """As one who removes an entry leaves it for a moment."""
        raw = self.encoded(key)
        found = self._flow.decode(self.maps["kpb_flows"].lookup(raw) or b"")
        void = found._replace(check=~found.check & 0xFFFFFFFF)
        self.maps["kpb_flows"].update(raw, self._flow.encode(void))

    def counted(self) -> dict[str, int]:
        """All counters that are not zero."""
        return {name: number for name in self.counters if (number := self.count(name))}

    def stats(self, service: int) -> tuple[int, int, int]:
        """New flows, flows without a port, flows refused otherwise."""
        flows, exhausted, rejected = struct.unpack(
            "=3Q", self.maps["kpb_stats"].lookup(u32(service)) or bytes(24)
        )
        return flows, exhausted, rejected


def prefix(network: str) -> bytes:
    """A ``struct prefix``."""
    parsed = ip_network(network)
    mask = parsed.netmask.packed.rjust(16, b"\xff")
    return mapped(str(parsed.network_address)) + mask


def text(key: Tuple) -> str:
    """A flow's key for the eye."""
    ends = f"{shown(key.source)}#{key.source_port} > {shown(key.destination)}"
    return f"{ends}#{key.destination_port}/{key.protocol}"


def _address_or_none(address: str) -> bytes:
    return bytes(16) if address in WILDCARDS else mapped(address)
