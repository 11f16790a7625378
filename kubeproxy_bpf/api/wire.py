# SPDX-License-Identifier: Apache-2.0
"""The shape of API objects on the wire, as far as the proxy reads them.

Every field may be absent or null, as in Kubernetes' own decoder; unknown fields are skipped without
being built. A wrong type is an error that names its path. These structs live only while one object
is converted (``api.convert``); nothing keeps them.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from msgspec import UNSET, Raw, Struct, UnsetType, field

HEADLESS = "service.kubernetes.io/headless"
PROXY_NAME = "service.kubernetes.io/service-proxy-name"
SERVICE_NAME = "kubernetes.io/service-name"
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
ZONE = "topology.kubernetes.io/zone"


class Wire(Struct, frozen=True, gc=False, rename="camel"):
    """Base: JSON names in camel case; no garbage collection, since JSON has no cycles."""


class Meta(Wire, frozen=True):
    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class Event(Wire, frozen=True):
    """First stage of a watch event: nothing inside the object can break it."""

    type: str
    object: Raw


T = TypeVar("T")


class EventOf(Wire, Generic[T], frozen=True):
    """A watch event whose object is of the kind watched: the usual case, in one pass."""

    type: str
    object: T


class ListMeta(Wire, frozen=True):
    resource_version: str | None = None
    continue_: str | None = None


class Page(Wire, frozen=True):
    kind: str | None = None
    metadata: ListMeta | None = None
    items: tuple[Raw, ...] | None | UnsetType = UNSET


class BookmarkMeta(Wire, frozen=True):
    resource_version: str | None = None
    annotations: dict[str, Any] | None = None


class Bookmark(Wire, frozen=True):
    metadata: BookmarkMeta


class LooseMeta(Wire, frozen=True):
    """Just enough of any object, however broken, to say which one it is."""

    name: Any = None
    namespace: Any = None
    resource_version: Any = None


class Loose(Wire, frozen=True):
    metadata: LooseMeta


class StatusDetails(Wire, frozen=True):
    retry_after_seconds: int | None = None
    causes: tuple[dict[str, Any], ...] | None = None


class Status(Wire, frozen=True):
    """metav1.Status: how the API server says no."""

    code: int | None = None
    reason: str | None = None
    message: str | None = None
    details: StatusDetails | None = None


class ServicePort(Wire, frozen=True):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    node_port: int | None = None


class ClientIP(Wire, frozen=True):
    timeout_seconds: int | None = None


class AffinityConfig(Wire, frozen=True):
    client_ip: ClientIP | None = field(name="clientIP", default=None)


class ServiceSpec(Wire, frozen=True):
    type: str | None = None
    cluster_ip: str | None = field(name="clusterIP", default=None)
    cluster_ips: tuple[str, ...] | None = field(name="clusterIPs", default=None)
    ip_families: tuple[str, ...] | None = None
    ports: tuple[ServicePort, ...] | None = None
    external_ips: tuple[str, ...] | None = field(name="externalIPs", default=None)
    load_balancer_source_ranges: tuple[str, ...] | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    session_affinity: str | None = None
    session_affinity_config: AffinityConfig | None = None
    health_check_node_port: int | None = None


class Ingress(Wire, frozen=True):
    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancer(Wire, frozen=True):
    ingress: tuple[Ingress, ...] | None = None


class ServiceStatus(Wire, frozen=True):
    load_balancer: LoadBalancer | None = None


class ServiceMeta(Meta, frozen=True):
    labels: dict[str, str | None] | None = None
    annotations: dict[str, str | None] | None = None


class Service(Wire, frozen=True):
    metadata: ServiceMeta
    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


class SliceLabels(Wire, frozen=True):
    """Two of a slice's labels; the others, and there are many, are not built."""

    service: str | None = field(name=SERVICE_NAME, default=None)
    headless: str | None | UnsetType = field(name=HEADLESS, default=UNSET)


class SliceAnnotations(Wire, frozen=True):
    trigger_time: str | None = field(name=TRIGGER_TIME, default=None)


class SliceMeta(Meta, frozen=True):
    labels: SliceLabels | None = None
    annotations: SliceAnnotations | None = None


class SlicePort(Wire, frozen=True):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class Conditions(Wire, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(Wire, frozen=True):
    name: str | None = None


class Hints(Wire, frozen=True):
    for_zones: tuple[Hint, ...] | None = None
    for_nodes: tuple[Hint, ...] | None = None


class Endpoint(Wire, frozen=True):
    addresses: tuple[str, ...] | None = None
    conditions: Conditions | None = None
    node_name: str | None = None
    hints: Hints | None = None


class EndpointSlice(Wire, frozen=True):
    metadata: SliceMeta
    address_type: str | None = None
    ports: tuple[SlicePort, ...] | None = None
    endpoints: tuple[Endpoint, ...] | None = None


class NodeLabels(Wire, frozen=True):
    zone: str | None = field(name=ZONE, default=None)


class NodeMeta(Meta, frozen=True):
    labels: NodeLabels | None = None


class Taint(Wire, frozen=True):
    key: str | None = None


class NodeSpec(Wire, frozen=True):
    pod_cidr: str | None = field(name="podCIDR", default=None)
    pod_cidrs: tuple[str, ...] | None = field(name="podCIDRs", default=None)
    taints: tuple[Taint, ...] | None = None


class NodeAddress(Wire, frozen=True):
    type: str | None = None
    address: str | None = None


class NodeStatus(Wire, frozen=True):
    addresses: tuple[NodeAddress, ...] | None = None


class Node(Wire, frozen=True):
    metadata: NodeMeta
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class ServiceCIDRSpec(Wire, frozen=True):
    cidrs: tuple[str, ...] | None = None


class ServiceCIDR(Wire, frozen=True):
    metadata: Meta
    spec: ServiceCIDRSpec | None = None


class ContainerPort(Wire, frozen=True):
    host_ip: str | None = field(name="hostIP", default=None)
    host_port: int | None = None
    container_port: int | None = None
    protocol: str | None = None


class Container(Wire, frozen=True):
    restart_policy: str | None = None
    ports: tuple[ContainerPort, ...] | None = None


class PodSpec(Wire, frozen=True):
    node_name: str | None = None
    host_network: bool | None = None
    containers: tuple[Container, ...] | None = None
    init_containers: tuple[Container, ...] | None = None


class PodIP(Wire, frozen=True):
    ip: str | None = None


class PodStatus(Wire, frozen=True):
    phase: str | None = None
    pod_ip: str | None = field(name="podIP", default=None)
    pod_ips: tuple[PodIP, ...] | None = field(name="podIPs", default=None)


class Pod(Wire, frozen=True):
    metadata: Meta
    spec: PodSpec | None = None
    status: PodStatus | None = None
