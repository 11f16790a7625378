# SPDX-License-Identifier: Apache-2.0
"""API objects as the proxy keeps them: only the fields that it uses, compact and immutable.

The decoder (``api.decode``) makes them from the wire; the model reads them. Strings that repeat
(nodes, zones, port names) are interned, and endpoints share their traits, since a large cluster has
100,000 endpoints but few distinct traits.
"""

from __future__ import annotations

from typing import NamedTuple


class ObjectKey(NamedTuple):
    namespace: str
    name: str


class ServicePort(NamedTuple):
    name: str
    protocol: str
    """As on the wire, "TCP" when absent; the model judges it."""
    port: int
    node_port: int
    """0 when the Service has none."""


class Ingress(NamedTuple):
    """One entry of status.loadBalancer.ingress."""

    ip: str
    """Empty when the entry has a host name only."""
    ip_mode: str
    """"VIP" when absent (KEP-1860)."""


class Service(NamedTuple):
    namespace: str
    name: str
    uid: str
    created: str
    """creationTimestamp; settles who owns a contested frontend."""
    type: str
    cluster_ip: str
    cluster_ips: tuple[str, ...]
    ip_families: tuple[str, ...]
    """"IPv4" / "IPv6", as on the wire."""
    ports: tuple[ServicePort, ...]
    external_ips: tuple[str, ...]
    ingress: tuple[Ingress, ...]
    source_ranges: tuple[str, ...]
    internal_policy: str
    external_policy: str
    affinity: str
    """"None" or "ClientIP"."""
    affinity_timeout_s: int
    health_check_node_port: int
    proxy_name: str | None
    """Label service.kubernetes.io/service-proxy-name, None when absent."""
    annotations: tuple[tuple[str, str], ...]
    """Only those of our own prefix."""

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.namespace, self.name)


class EndpointTraits(NamedTuple):
    """Everything about an endpoint but its address; shared between endpoints."""

    ready: bool
    serving: bool
    terminating: bool
    node: str | None
    hint_zones: frozenset[str]
    hint_nodes: frozenset[str]


class SlicePort(NamedTuple):
    name: str
    protocol: str
    port: int


class EndpointSlice(NamedTuple):
    namespace: str
    name: str
    service: str
    """Label kubernetes.io/service-name; empty when absent."""
    headless: bool
    """Label service.kubernetes.io/headless is present."""
    address_type: str
    """"IPv4", "IPv6" or "FQDN"."""
    ports: tuple[SlicePort, ...]
    """Ports without a name or number are already left out [A11]."""
    addresses: tuple[bytes, ...]
    """First address of each endpoint, 16 bytes, v4-mapped; unusable ones are left out [B5]."""
    traits: tuple[EndpointTraits, ...]
    """Parallel to ``addresses``."""
    triggered: float = 0.0
    """Unix time of the change that led to this version, to be measured; 0 when unknown. The last
    field: all others are content."""

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.namespace, self.name)


class Node(NamedTuple):
    name: str
    zone: str
    """Label topology.kubernetes.io/zone, empty when absent."""
    pod_cidrs: tuple[str, ...]
    addresses: tuple[tuple[str, str], ...]
    """(type, address) of status.addresses, in order."""
    deleting: bool
    taints: tuple[str, ...]
    """Keys of spec.taints."""

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("", self.name)


class ServiceCIDR(NamedTuple):
    name: str
    cidrs: tuple[str, ...]

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("", self.name)


class HostPort(NamedTuple):
    host_ip: str
    host_port: int
    container_port: int
    protocol: str


class Pod(NamedTuple):
    """A Pod of this node, as far as its host ports go."""

    namespace: str
    name: str
    uid: str
    created: str
    node: str
    phase: str
    host_network: bool
    deleting: bool
    pod_ips: tuple[str, ...]
    host_ports: tuple[HostPort, ...]

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.namespace, self.name)
