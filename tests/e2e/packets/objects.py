# SPDX-License-Identifier: Apache-2.0
"""Objects of the world of the packet tests: Services with all their addresses, slices, a host port.

Pure: every address and port follows from the Service's position in the table.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

from kubeproxy_bpf.sandbox.inventory import Manifest, pod_manifest
from kubeproxy_bpf.sandbox.layout import BACKEND_PORT, Layout
from tests.e2e.packets.table import SERVICES, Service

PORT = 80
BULK_PORT = 5001
BULK_BACKEND_PORT = 8081
HOST_PORT = 8008
_FIRST_NODE_PORT = 31000
_FIRST_BULK_NODE_PORT = 32000
_NAMES = [service.name for service in SERVICES]


class Addresses(NamedTuple):
    """Where a Service is reached from outside."""

    external: tuple[str, str]
    balancer: tuple[str, str]
    node_port: int
    bulk_node_port: int


def addresses_of(name: str) -> Addresses:
    number = _NAMES.index(name) + 1
    return Addresses(
        (f"203.0.113.{100 + number}", f"2001:db8:113::{100 + number}"),
        (f"203.0.113.{200 + number}", f"2001:db8:113::{200 + number}"),
        _FIRST_NODE_PORT + number,
        _FIRST_BULK_NODE_PORT + number,
    )


def full_service(service: Service, client: Sequence[str]) -> Manifest:
    """A Service of the table with everything that it can have; ranges may name the client."""
    given = addresses_of(service.name)
    spec = dict(service.spec)
    if "loadBalancerSourceRanges" in spec:
        v4, v6 = client
        ranges = [text.format(v4=v4, v6=v6) for text in spec["loadBalancerSourceRanges"]]
        spec["loadBalancerSourceRanges"] = ranges
    manifest = service_manifest(service.name, PORT, (given.node_port, given.bulk_node_port), **spec)
    manifest["spec"]["type"] = "LoadBalancer"
    manifest["spec"]["externalIPs"] = list(given.external)
    ingress = [{"ip": address, "ipMode": "VIP"} for address in given.balancer]
    return {**manifest, "status": {"loadBalancer": {"ingress": ingress}}}


def service_manifest(
    name: str, port: int, node_ports: tuple[int, int] | None = None, **spec: Any
) -> Manifest:
    """A Service without selector: TCP and UDP on one port, and a TCP port for bulk data."""
    ports: list[dict[str, Any]] = [
        {"name": protocol.lower(), "protocol": protocol, "port": port, "targetPort": BACKEND_PORT}
        for protocol in ("TCP", "UDP")
    ]
    bulk = {"name": "bulk", "protocol": "TCP", "port": BULK_PORT, "targetPort": BULK_BACKEND_PORT}
    ports.append(bulk)
    if node_ports:
        first, second = node_ports
        ports = [
            {**each, "nodePort": second if each["name"] == "bulk" else first} for each in ports
        ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ipFamilyPolicy": "RequireDualStack", "ports": ports, **spec},
    }


def slice_manifest(layout: Layout, name: str, family: int, backends: tuple[str, ...]) -> Manifest:
    """The only EndpointSlice of a Service in a family, over pods and nodes."""
    nodes = {pod.name: pod.node for pod in layout.pods}
    endpoints = [
        {
            "addresses": [layout.addresses(each)[family]],
            "nodeName": nodes.get(each, each),
            "conditions": {"ready": True},
        }
        for each in backends
    ]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-{family}",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": ("IPv4", "IPv6")[family],
        "ports": [
            {"name": "tcp", "protocol": "TCP", "port": BACKEND_PORT},
            {"name": "udp", "protocol": "UDP", "port": BACKEND_PORT},
            {"name": "bulk", "protocol": "TCP", "port": BULK_BACKEND_PORT},
        ],
        "endpoints": endpoints,
    }


def host_port_pod(layout: Layout) -> Manifest:
    """web-1, as a pod that also wants a port of its host."""
    pod = next(pod for pod in layout.pods if pod.name == "web-1")
    manifest = pod_manifest(pod, layout.nodes[0])
    for port in manifest["spec"]["containers"][0]["ports"]:
        port["hostPort"] = HOST_PORT
    return manifest
