# SPDX-License-Identifier: Apache-2.0
"""What a cluster fills in when a manifest leaves it out, as far as Services need it.

Addresses and node ports are ``services``' to give. Fields of a wrong type are left alone: a test
may store them on purpose.
"""

from __future__ import annotations

from typing import Any, Callable, Iterator, Mapping

from .resources import Resource
from .status import Json


def default(resource: Resource, obj: Json, before: Json | None) -> Json:
    """The object with defaults; ``obj`` itself is not changed."""
    fill = _BY_KIND.get(resource.kind)
    return fill(obj, before or {}) if fill else obj


def items_of(value: Any) -> Iterator[Json]:
    """The maps in something that should be a list of maps."""
    return (
        (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())
    )


def map_of(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _service(obj: Json, before: Json) -> Json:
    if not isinstance(obj.get("spec"), dict):
        return obj
    spec = {"type": "ClusterIP", "sessionAffinity": "None", **obj["spec"]}
    _with_ports(spec, _service_port)
    if spec["type"] != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if spec["type"] in ("NodePort", "LoadBalancer") or spec.get("externalIPs"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    elif map_of(before.get("spec")).get("externalTrafficPolicy") == spec.get(
        "externalTrafficPolicy"
    ):
        spec.pop("externalTrafficPolicy", None)
    if spec["type"] == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    _affinity(spec)
    status = obj.get("status") or {"loadBalancer": {}}
    return {**obj, "spec": spec, "status": _with_ip_mode(status)}


def _with_ports(spec: Json, fill: Callable[[Json], Json]) -> None:
    if isinstance(spec.get("ports"), list):
        ports = spec["ports"]
        spec["ports"] = [fill(port) if isinstance(port, dict) else port for port in ports]


def _service_port(port: Json) -> Json:
    filled = {"protocol": "TCP", **port}
    if "port" in port:
        filled.setdefault("targetPort", port["port"])
    return filled


def _affinity(spec: Json) -> None:
    if spec["sessionAffinity"] == "ClientIP":
        given = map_of(map_of(spec.get("sessionAffinityConfig")).get("clientIP"))
        spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": 10800, **given}}
    elif spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)


def _with_ip_mode(status: Json) -> Json:
    balancer = map_of(status).get("loadBalancer")
    if not isinstance(balancer, dict) or not isinstance(balancer.get("ingress"), list):
        return status
    ingress = [
        {"ipMode": "VIP", **entry} if isinstance(entry, dict) and entry.get("ip") else entry
        for entry in balancer["ingress"]
    ]
    return {**status, "loadBalancer": {**balancer, "ingress": ingress}}


def _endpoint_slice(obj: Json, _before: Json) -> Json:
    filled = dict(obj)
    _with_ports(filled, lambda port: {"name": "", "protocol": "TCP", **port})
    return filled


def _namespace(obj: Json, _before: Json) -> Json:
    meta = obj["metadata"]
    labels = {**map_of(meta.get("labels")), "kubernetes.io/metadata.name": meta["name"]}
    return {
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
        **obj,
        "metadata": {**meta, "labels": labels},
    }


def _pod(obj: Json, _before: Json) -> Json:
    status = {"phase": "Pending", **map_of(obj.get("status"))}
    if status.get("podIP") and not status.get("podIPs"):
        status["podIPs"] = [{"ip": status["podIP"]}]
    spec = {"restartPolicy": "Always", **map_of(obj.get("spec"))}
    if isinstance(spec.get("containers"), list):
        spec["containers"] = [_container(c) for c in spec["containers"]]
    return {**obj, "spec": spec, "status": status}


def _container(container: Any) -> Any:
    if not isinstance(container, dict):
        return container
    filled = dict(container)
    _with_ports(filled, lambda port: {"protocol": "TCP", **port})
    return filled


_BY_KIND: Mapping[str, Callable[[Json, Json], Json]] = {
    "Service": _service,
    "EndpointSlice": _endpoint_slice,
    "Namespace": _namespace,
    "Pod": _pod,
}
