# SPDX-License-Identifier: Apache-2.0
"""The packet programs on the node of a row, with the Services that the rules have (rules.py).

Attached by links of its own: the benchmark measures the programs, not how devices are found.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, NamedTuple, Self

from rules import Shape, services
from topology import Row

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.dataplane.loader import Datapath, load_datapath
from kubeproxy_bpf.dataplane.node import NodeFacts, NodeMap
from kubeproxy_bpf.dataplane.program import Programmer
from kubeproxy_bpf.dataplane.settings import ConfigFlags, Settings, netns_cookie
from kubeproxy_bpf.dataplane.tracking import encode_timeouts, timeouts
from kubeproxy_bpf.dataplane.writer import Writer
from kubeproxy_bpf.instance import object_path
from kubeproxy_bpf.libbpf import AttachType, Link
from kubeproxy_bpf.model.types import (
    BackendSpec,
    Changes,
    Desired,
    FrontendSpec,
    ServicePortId,
)
from kubeproxy_bpf.plan.records import (
    BackendFlags,
    FrontendFlags,
    FrontendKind,
    RecordFlags,
    VipFlags,
)

FLOWS = 524288
SNAT_PORTS = (10000, 20000)
"""The first and how many, beside the node ports of rules.py."""
_XDP_NATIVE = 1 << 2
_POD, _ETHERNET, _XDP_TARGET, _UP = 1 << 0, 1 << 2, 1 << 3, 1 << 4


class Device(NamedTuple):
    """``struct device``."""

    ipv4: bytes
    ipv6: bytes
    mac: bytes
    flags: int
    mtu: int


class PacketPath:
    """Loaded for the node of a row and filled; ``attach`` puts it to work."""

    def __init__(self, row: Row, shape: Shape, flags: ConfigFlags = ConfigFlags(0)) -> None:
        self._row = row
        self._links: list[Link] = []
        with row.inside("n"):
            settings = Settings(
                netns_cookie(),
                1,
                flags,
                *SNAT_PORTS,
                timeout=encode_timeouts(timeouts({})),
            )
        sizes = {"kpb_flows": FLOWS, "kpb_flow_queue": FLOWS}
        path = object_path("packets.bpf.o")
        self.datapath: Datapath = load_datapath(path, None, sizes, settings)
        self.programs = self.datapath.programs
        self.flows = self.datapath.maps["kpb_flows"]
        try:
            asyncio.run(self._fill(shape))
            self._describe(shape)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach and forget."""
        for link in self._links:
            link.close()
        self.datapath.close()

    def attach(self, *, xdp: bool) -> None:
        """TC on all devices of the node; XDP on the uplinks too, or else frames arrive by GRO."""
        with self._row.inside("n"):
            for device in self._row.node_devices:
                index = socket.if_nametoindex(device)
                for program, kind in (
                    ("kpb_tc_ingress", AttachType.TCX_INGRESS),
                    ("kpb_tc_egress", AttachType.TCX_EGRESS),
                ):
                    self._links.append(Link.create(self.programs[program].fd, index, kind))
                if xdp and not _is_pod(device):
                    fd = self.programs["kpb_xdp"].fd
                    self._links.append(Link.create(fd, index, AttachType.XDP, _XDP_NATIVE))

    def clear_flows(self) -> None:
        """Forget all flows."""
        keys = list(self.flows.keys())
        self.flows.delete_batch(b"".join(keys), len(keys))

    def flow_count(self) -> int:
        """Entries of the flow table."""
        return sum(1 for _ in self.flows.keys())

    def counted(self) -> dict[str, int]:
        """The programs' verdicts that are not zero: what to look at when frames are missing."""
        counters, counts = self.datapath.maps["kpb_counters"], {}
        for name, number in self.datapath.btf.enums["counter"].values.items():
            per_cpu = counters.lookup(number.to_bytes(4, "little"))
            if per_cpu and (total := sum(memoryview(per_cpu).cast("Q"))):
                counts[name.removeprefix("COUNT_").lower()] = total
        return counts

    async def _fill(self, shape: Shape) -> None:
        writer = Writer(self.datapath.maps, self.datapath.btf)
        programmer = Programmer(writer)
        await programmer.start()
        wanted = dict(_desired(shape))
        vips = {
            spec.address: int(VipFlags.CLUSTER_IP)
            for desired in wanted.values()
            for spec in desired.frontends
            if spec.kind == FrontendKind.CLUSTER_IP
        }
        for address, _ in self._row.node_devices.values():
            vips[packed(address)] = int(VipFlags.NODE_PORT | VipFlags.HOST_PORT)
        outcome = await programmer.apply(Changes(wanted, vips, complete=True))
        assert outcome.clean, outcome
        await programmer.close()
        writer.close()

    def _describe(self, shape: Shape) -> None:
        """Tell the programs of the node and its devices."""
        maps, btf = self.datapath.maps, self.datapath.btf
        NodeMap(maps["kpb_node"], btf).write(NodeFacts(ipv4=packed(shape.node)))
        codec = layout.bind(btf, "device", Device)
        for name, (address, mac) in self._row.node_devices.items():
            flags = _UP | _ETHERNET | (_POD if _is_pod(name) else _XDP_TARGET)
            record = Device(packed(address), bytes(16), mac, flags, 1500)
            with self._row.inside("n"):
                index = socket.if_nametoindex(name)
            maps["kpb_devices"].update(index.to_bytes(4, "little"), codec.encode(record))


def _desired(shape: Shape) -> Any:
    protocol = socket.IPPROTO_TCP if shape.protocol == "tcp" else socket.IPPROTO_UDP
    wildcard = packed("0.0.0.0")
    for index, service in enumerate(services(shape)):
        port_id = ServicePortId("service", "bench", f"s{index}", "", protocol, 4)
        frontends = (
            FrontendSpec(packed(service.vip), service.port, protocol, FrontendKind.CLUSTER_IP, 0),
            FrontendSpec(
                wildcard,
                service.node_port,
                protocol,
                FrontendKind.NODE_PORT,
                FrontendFlags.EXTERNAL,
            ),
        )
        local = BackendFlags.LOCAL if service.local else BackendFlags(0)
        backends = tuple(
            BackendSpec(packed(host), int(port), protocol, local)
            for host, _, port in (e.rpartition(":") for e in dict.fromkeys(service.endpoints))
        )
        window = len(backends) if service.local else 0
        flags = int(RecordFlags.HAS_ENDPOINTS)
        yield port_id, Desired(frontends, backends, len(backends), 0, window, 0, flags)


def packed(text: str) -> bytes:
    """An address as the maps hold it."""
    address = parse_address(text)
    assert address is not None
    return address


def _is_pod(device: str) -> bool:
    return device.startswith("v")
