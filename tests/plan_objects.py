# SPDX-License-Identifier: Apache-2.0
"""Short ways to write service ports, frontends, endpoints and changes in tests."""

from __future__ import annotations

import ipaddress
from typing import Iterable, Mapping

from kubeproxy_bpf.dataplane.fake import FakeDataplane
from kubeproxy_bpf.model.types import (
    BackendSpec,
    Changes,
    Desired,
    FrontendSpec,
    Prefix,
    ServicePortId,
)
from kubeproxy_bpf.plan.planner import Planner
from kubeproxy_bpf.plan.records import FrontendFlags, FrontendKind, RecordFlags, VipFlags
from kubeproxy_bpf.plan.writes import Capacity, Plan

SMALL = Capacity(vips=64, frontends=64, services=32, records=64, slots=256, backends=128)
PACKETS = SMALL._replace(source_ranges=64)
"""With a packet path: source ranges count and VIPs linger."""
WILDCARD = "0.0.0.0"


def ip(text: str) -> bytes:
    """16 bytes of an address, v4-mapped."""
    address = ipaddress.ip_address(text)
    return bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed


def port_id(name: str, protocol: int = 6) -> ServicePortId:
    return ServicePortId("service", "default", name, "", protocol, 4)


def cluster_ip(address: str, port: int = 80) -> FrontendSpec:
    return FrontendSpec(ip(address), port, 6, FrontendKind.CLUSTER_IP, 0)


def external_ip(address: str, port: int = 80) -> FrontendSpec:
    return FrontendSpec(ip(address), port, 6, FrontendKind.EXTERNAL_IP, int(FrontendFlags.EXTERNAL))


def load_balancer(address: str, port: int = 80, ranges: bool = True) -> FrontendSpec:
    flags = FrontendFlags.EXTERNAL | (FrontendFlags.SOURCE_RANGES if ranges else 0)
    return FrontendSpec(ip(address), port, 6, FrontendKind.LOAD_BALANCER, int(flags))


def prefixes(*texts: str) -> tuple[Prefix, ...]:
    """IPv4 CIDRs, as in ``Desired.source_ranges``."""
    networks = map(ipaddress.IPv4Network, texts)
    return tuple(sorted(Prefix(ip(str(n.network_address)), 96 + n.prefixlen) for n in networks))


def node_port(port: int, protocol: int = 6) -> FrontendSpec:
    flags = int(FrontendFlags.EXTERNAL)
    return FrontendSpec(ip(WILDCARD), port, protocol, FrontendKind.NODE_PORT, flags)


def endpoint(address: str, port: int = 8080, flags: int = 0) -> BackendSpec:
    return BackendSpec(ip(address), port, 6, flags)


def desired(
    frontends: Iterable[FrontendSpec], backends: Iterable[str], affinity: int = 0, local: int = 0
) -> Desired:
    """A service port whose cluster set is all endpoints and whose local set is the last few."""
    specs = tuple(endpoint(address) for address in backends)
    flags = int(RecordFlags.HAS_ENDPOINTS) if specs else 0
    count = len(specs)
    return Desired(tuple(frontends), specs, count, count - local, local, affinity, flags)


def vips_of(services: Mapping[ServicePortId, Desired | None]) -> dict[bytes, int]:
    """The addresses of all frontends, and 192.0.2.1 as a local address for node ports."""
    vips = {ip("192.0.2.1"): int(VipFlags.NODE_PORT | VipFlags.HOST_PORT)}
    for wanted in services.values():
        for spec in wanted.frontends if wanted else ():
            cluster = spec.kind == FrontendKind.CLUSTER_IP
            if spec.address != ip(WILDCARD):
                flags = VipFlags.CLUSTER_IP if cluster else VipFlags.EXTERNAL
                vips[spec.address] = vips.get(spec.address, 0) | int(flags)
    return vips


def complete(services: Mapping[ServicePortId, Desired | None]) -> Changes:
    return Changes(services, vips_of(services), True)


class Bench:
    """A planner and a fake dataplane, joined without waiting."""

    def __init__(self, capacity: Capacity = SMALL) -> None:
        self.fake = FakeDataplane(capacity)
        self.planner = Planner(capacity)

    def plan(self, changes: Changes) -> Plan:
        """Plan and execute."""
        plan = self.planner.plan(changes)
        self.planner.settle(plan, self.fake.execute(plan).failed)
        return plan

    def sync(self, changes: Changes) -> Plan:
        """Plan, execute, and let all graces pass."""
        plan = self.plan(changes)
        self.rest(plan)
        return plan

    def rest(self, plan: Plan) -> None:
        """Let graces pass until nothing is left to do."""
        for _ in range(10):
            self.planner.release(plan.token)
            if not self.planner.owes:
                return
            plan = self.plan(Changes({}, {}))
        raise AssertionError("the planner never comes to rest")

    def restart(self) -> None:
        """Start anew from the maps."""
        self.planner = Planner.restore(self.fake.capacity, self.fake.snapshot())
        self.planner.release(0)
