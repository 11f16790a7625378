# SPDX-License-Identifier: Apache-2.0
"""API objects for tests, with defaults that a test changes only where it matters."""

from __future__ import annotations

from typing import Any

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.api.objects import (
    EndpointSlice,
    EndpointTraits,
    HostPort,
    Node,
    Pod,
    Service,
    ServicePort,
    SlicePort,
)

NODE = "node-a"
"""The node that tests run on; "node-b" is the other one."""

HTTP = ServicePort("http", "TCP", 80, 0)


def ip(text: str) -> bytes:
    address = parse_address(text)
    assert address is not None, text
    return address


def service(**fields: Any) -> Service:
    """An IPv4 Service default/web with a cluster IP and the port http."""
    defaults: dict[str, Any] = {
        "namespace": "default",
        "name": "web",
        "uid": "",
        "created": "2024-01-01T00:00:00Z",
        "type": "ClusterIP",
        "cluster_ip": "10.96.0.1",
        "cluster_ips": ("10.96.0.1",),
        "ip_families": ("IPv4",),
        "ports": (HTTP,),
        "external_ips": (),
        "ingress": (),
        "source_ranges": (),
        "internal_policy": "Cluster",
        "external_policy": "Cluster",
        "affinity": "None",
        "affinity_timeout_s": 0,
        "health_check_node_port": 0,
        "proxy_name": None,
        "annotations": (),
    }
    return Service(**(defaults | fields))


def traits(node: str | None = "node-b", **fields: Any) -> EndpointTraits:
    """A ready endpoint on another node."""
    defaults: dict[str, Any] = {
        "ready": True,
        "serving": True,
        "terminating": False,
        "node": node,
        "hint_zones": frozenset(),
        "hint_nodes": frozenset(),
    }
    return EndpointTraits(**(defaults | fields))


def draining(node: str | None = "node-b") -> EndpointTraits:
    return traits(node, ready=False, terminating=True)


def endpoint_slice(endpoints: dict[str, EndpointTraits], **fields: Any) -> EndpointSlice:
    """An IPv4 slice of default/web with the port http at 8080."""
    defaults: dict[str, Any] = {
        "namespace": "default",
        "name": "web-1",
        "service": "web",
        "headless": False,
        "address_type": "IPv4",
        "ports": (SlicePort("http", "TCP", 8080),),
        "addresses": tuple(map(ip, endpoints)),
        "traits": tuple(endpoints.values()),
    }
    return EndpointSlice(**(defaults | fields))


def node(**fields: Any) -> Node:
    defaults: dict[str, Any] = {
        "name": NODE,
        "zone": "",
        "pod_cidrs": (),
        "addresses": (),
        "deleting": False,
        "taints": (),
    }
    return Node(**(defaults | fields))


def pod(*host_ports: HostPort, **fields: Any) -> Pod:
    """A running Pod default/agent of this node."""
    defaults: dict[str, Any] = {
        "namespace": "default",
        "name": "agent",
        "uid": "",
        "created": "2024-01-01T00:00:00Z",
        "node": NODE,
        "phase": "Running",
        "host_network": False,
        "deleting": False,
        "pod_ips": ("10.244.1.9",),
        "host_ports": host_ports,
    }
    return Pod(**(defaults | fields))
