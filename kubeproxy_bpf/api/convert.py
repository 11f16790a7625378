# SPDX-License-Identifier: Apache-2.0
"""Wire structs to the compact objects of ``api.objects``: defaults, shared traits, addresses.

Pure. It fills in what Kubernetes leaves out (B1-B3, "TCP", "VIP") and drops what can never be used
(A11, B5); it judges nothing else. Each function returns the object and the complaints about parts
that were left out, as (field, message). Called by ``api.decode`` alone.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from itertools import chain
from sys import intern
from typing import Any, Callable, Iterable, TypeVar

from msgspec import UNSET

from kubeproxy_bpf.api import objects, wire
from kubeproxy_bpf.api.addresses import V4_PREFIX, parse_address, special_range
from kubeproxy_bpf.excerpt import excerpt

ANNOTATION_PREFIX = "kubeproxy-bpf.io/"
"""Annotations under this prefix are kept, all others are dropped."""

AFFINITY_TIMEOUT_S = 10800
"""What the API server fills in for ClientIP affinity without a time-out [G4]."""

Complaint = tuple[str, str]

_FEW = 16
_Source = TypeVar("_Source", bound="tuple[Any, ...] | None")
_Kept = TypeVar("_Kept")

_NO_CONDITIONS = wire.Conditions()
_NO_SPEC = wire.ServiceSpec()


def service(source: wire.Service) -> tuple[objects.Service, tuple[Complaint, ...]]:
    meta, spec = source.metadata, source.spec or _NO_SPEC
    result = objects.Service(
        namespace=intern(meta.namespace or ""),
        name=intern(meta.name or ""),
        uid=meta.uid or "",
        created=intern(meta.creation_timestamp or ""),
        type=intern(spec.type or "ClusterIP"),
        cluster_ip=spec.cluster_ip or "",
        cluster_ips=spec.cluster_ips or (),
        ip_families=_families(spec.ip_families or ()),
        ports=_service_ports(spec.ports),
        external_ips=spec.external_ips or (),
        ingress=_ingress(source.status),
        source_ranges=spec.load_balancer_source_ranges or (),
        internal_policy=intern(spec.internal_traffic_policy or "Cluster"),
        external_policy=intern(spec.external_traffic_policy or "Cluster"),
        affinity=intern(spec.session_affinity or "None"),
        affinity_timeout_s=_affinity_timeout_s(spec.session_affinity_config),
        health_check_node_port=spec.health_check_node_port or 0,
        proxy_name=_proxy_name(meta.labels),
        annotations=_own_annotations(meta.annotations),
    )
    return result, ()


def endpoint_slice(
    source: wire.EndpointSlice,
) -> tuple[objects.EndpointSlice, tuple[Complaint, ...]]:
    labels = source.metadata.labels or wire.SliceLabels()
    address_type = intern(source.address_type or "")
    endpoints = source.endpoints or ()
    # Names are nothing to connect to, so endpoints of FQDN slices are not kept at all [A7].
    addresses, traits, complaints = _endpoints(
        endpoints if address_type in ("IPv4", "IPv6") else (), address_type == "IPv4"
    )
    result = objects.EndpointSlice(
        namespace=intern(source.metadata.namespace or ""),
        name=source.metadata.name or "",
        service=intern(labels.service or ""),
        headless=labels.headless is not UNSET,
        address_type=address_type,
        ports=_slice_ports(source.ports),
        addresses=addresses,
        traits=traits,
        triggered=_trigger_time(source.metadata.annotations),
    )
    return result, complaints


def node(source: wire.Node) -> tuple[objects.Node, tuple[Complaint, ...]]:
    meta, spec = source.metadata, source.spec or wire.NodeSpec()
    labels = meta.labels or wire.NodeLabels()
    status = source.status or wire.NodeStatus()
    result = objects.Node(
        name=intern(meta.name or ""),
        zone=intern(labels.zone or ""),
        pod_cidrs=spec.pod_cidrs or _one(spec.pod_cidr),
        addresses=tuple((a.type or "", a.address or "") for a in status.addresses or ()),
        deleting=meta.deletion_timestamp is not None,
        taints=tuple(taint.key or "" for taint in spec.taints or ()),
    )
    return result, ()


def service_cidr(
    source: wire.ServiceCIDR,
) -> tuple[objects.ServiceCIDR, tuple[Complaint, ...]]:
    spec = source.spec or wire.ServiceCIDRSpec()
    return objects.ServiceCIDR(source.metadata.name or "", spec.cidrs or ()), ()


def pod(source: wire.Pod) -> tuple[objects.Pod, tuple[Complaint, ...]]:
    meta, spec = source.metadata, source.spec or wire.PodSpec()
    status = source.status or wire.PodStatus()
    result = objects.Pod(
        namespace=intern(meta.namespace or ""),
        name=meta.name or "",
        uid=meta.uid or "",
        created=meta.creation_timestamp or "",
        node=intern(spec.node_name or ""),
        phase=intern(status.phase or ""),
        host_network=bool(spec.host_network),
        deleting=meta.deletion_timestamp is not None,
        pod_ips=tuple(p.ip for p in status.pod_ips or () if p.ip) or _one(status.pod_ip),
        host_ports=_host_ports(spec),
    )
    return result, ()


def _one(value: str | None) -> tuple[str, ...]:
    return (value,) if value else ()


def _remembered(
    size: int,
) -> Callable[[Callable[[_Source], _Kept]], Callable[[_Source], _Kept]]:
    """A cache that remembers small values only.

    Many objects have the same few ports and share them. What is large is nobody else's, and a cache
    full of it would be larger than all objects: a Service may have ten thousand ports.
    """

    def decorate(convert: Callable[[_Source], _Kept]) -> Callable[[_Source], _Kept]:
        cached = lru_cache(maxsize=size)(convert)

        def converted(source: _Source) -> _Kept:
            return cached(source) if source is None or len(source) <= _FEW else convert(source)

        return converted

    return decorate


@_remembered(64)
def _families(families: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(intern, families))


@_remembered(4096)
def _service_ports(ports: tuple[wire.ServicePort, ...] | None) -> tuple[objects.ServicePort, ...]:
    return tuple(
        objects.ServicePort(
            intern(p.name or ""), intern(p.protocol or "TCP"), p.port or 0, p.node_port or 0
        )
        for p in ports or ()
    )


def _ingress(status: wire.ServiceStatus | None) -> tuple[objects.Ingress, ...]:
    if status is None or status.load_balancer is None:
        return ()
    entries = status.load_balancer.ingress or ()
    return tuple(objects.Ingress(e.ip or "", intern(e.ip_mode or "VIP")) for e in entries)


def _affinity_timeout_s(config: wire.AffinityConfig | None) -> int:
    if config is None or config.client_ip is None or config.client_ip.timeout_seconds is None:
        return AFFINITY_TIMEOUT_S
    return config.client_ip.timeout_seconds


def _proxy_name(labels: dict[str, str | None] | None) -> str | None:
    """The label's presence counts, even with an empty or null value [A4]."""
    if labels is None or wire.PROXY_NAME not in labels:
        return None
    return labels[wire.PROXY_NAME] or ""


def _own_annotations(annotations: dict[str, str | None] | None) -> tuple[tuple[str, str], ...]:
    if annotations is None:
        return ()
    own = ((k, v or "") for k, v in annotations.items() if k.startswith(ANNOTATION_PREFIX))
    return tuple(sorted(own))


@_remembered(4096)
def _slice_ports(ports: tuple[wire.SlicePort, ...] | None) -> tuple[objects.SlicePort, ...]:
    """Ports without a name or a number are nobody's [A11]; an empty name is a name."""
    return tuple(
        objects.SlicePort(intern(p.name), intern(p.protocol or "TCP"), p.port)
        for p in ports or ()
        if p.name is not None and p.port
    )


def _trigger_time(annotations: wire.SliceAnnotations | None) -> float:
    """Unix time; 0 for none, and for what is no time, since it is there to be measured only."""
    if annotations is None or annotations.trigger_time is None:
        return 0.0
    try:
        moment = datetime.fromisoformat(annotations.trigger_time)
    except ValueError:
        return 0.0
    return moment.timestamp() if moment.tzinfo else 0.0


def _endpoints(
    endpoints: Iterable[wire.Endpoint], want_ipv4: bool
) -> tuple[tuple[bytes, ...], tuple[objects.EndpointTraits, ...], tuple[Complaint, ...]]:
    addresses: list[bytes] = []
    traits: list[objects.EndpointTraits] = []
    complaints: list[Complaint] = []
    for index, endpoint in enumerate(endpoints):
        if not endpoint.addresses:
            continue
        text = endpoint.addresses[0]
        address = parse_address(text)
        unfit = _unfit(address, want_ipv4)
        if address is None or unfit:
            complaint = excerpt(f"{text!r} is {unfit}, endpoint left out")
            complaints.append((f"$.endpoints[{index}].addresses[0]", complaint))
            continue
        addresses.append(address)
        traits.append(_traits(endpoint.conditions, endpoint.node_name, endpoint.hints))
    return tuple(addresses), tuple(traits), tuple(complaints)


def _unfit(address: bytes | None, want_ipv4: bool) -> str:
    """Why it is no endpoint's address; empty when it is one.

    An API server refuses the special ranges too. Behind a Service they would lead each client to
    its own host.
    """
    if address is None or (address[:12] == V4_PREFIX) is not want_ipv4:
        return "not an IPv4 address" if want_ipv4 else "not an IPv6 address"
    return special_range(address)


# One entry per (state, node, hints) in use; bounded, since nodes come and go for ever.
@lru_cache(maxsize=65536)
def _traits(
    conditions: wire.Conditions | None, node_name: str | None, hints: wire.Hints | None
) -> objects.EndpointTraits:
    """Absent conditions mean ready, serving and not terminating [B1-B3]."""
    conditions = conditions or _NO_CONDITIONS
    return objects.EndpointTraits(
        ready=conditions.ready is not False,
        serving=conditions.serving is not False,
        terminating=conditions.terminating is True,
        node=None if node_name is None else intern(node_name),
        hint_zones=_hinted(hints.for_zones if hints else None),
        hint_nodes=_hinted(hints.for_nodes if hints else None),
    )


def _hinted(hints: tuple[wire.Hint, ...] | None) -> frozenset[str]:
    return frozenset(intern(hint.name or "") for hint in hints or ())


def _host_ports(spec: wire.PodSpec) -> tuple[objects.HostPort, ...]:
    """Host ports of containers and sidecars; other init containers are gone when the Pod runs."""
    sidecars = (c for c in spec.init_containers or () if c.restart_policy == "Always")
    ports = chain.from_iterable(c.ports or () for c in chain(spec.containers or (), sidecars))
    return tuple(
        objects.HostPort(
            p.host_ip or "", p.host_port, p.container_port or 0, intern(p.protocol or "TCP")
        )
        for p in ports
        if p.host_port
    )
