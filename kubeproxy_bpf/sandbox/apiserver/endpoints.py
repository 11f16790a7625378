# SPDX-License-Identifier: Apache-2.0
"""Which endpoints a Service has, as the cluster's EndpointSlice controller decides it. Pure.

``groups_of`` gives the endpoints per address family and set of ports; ``spread`` lays them out in
slices so that a change touches few of them. ``controller`` writes the result.
"""

from __future__ import annotations

import ipaddress
from typing import Iterable, Mapping, NamedTuple, Sequence

from .defaults import items_of, map_of
from .status import Json

MAX_ENDPOINTS = 100
"""Per slice, the real controller's default."""


class Group(NamedTuple):
    """What the endpoints of one slice have in common."""

    family: str
    ports: tuple[tuple[str, str, int], ...]
    """(name, protocol, number); pods may resolve a named port differently."""


def selects(service: Json, labels: Mapping[str, str]) -> bool:
    """Whether pods with these labels belong to the Service."""
    spec = map_of(service.get("spec"))
    selector = map_of(spec.get("selector"))
    if not selector or spec.get("type") == "ExternalName":
        return False
    return all(labels.get(key) == value for key, value in selector.items())


def groups_of(
    service: Json, pods: Iterable[Json], zones: Mapping[str, str]
) -> dict[Group, dict[str, Json]]:
    """The endpoints of a Service by group and address; ``zones`` are those of the nodes."""
    found: dict[Group, dict[str, Json]] = {}
    for pod in pods:
        status = map_of(pod.get("status"))
        if status.get("phase") in ("Succeeded", "Failed"):
            continue
        ports = _ports(service, pod)
        for address in (entry.get("ip") for entry in items_of(status.get("podIPs"))):
            family = _family(address)
            if address and family in service["spec"].get("ipFamilies", ()):
                endpoint = _endpoint(service, pod, address, zones)
                found.setdefault(Group(family, ports), {})[address] = endpoint
    return found


def spread(current: Sequence[Sequence[str]], wanted: Mapping[str, Json]) -> list[list[Json]]:
    """The endpoints of each present slice, then of new ones; addresses keep their slice."""
    left = dict(wanted)
    slices = [[left.pop(address) for address in kept if address in left] for kept in current]
    for endpoints in slices:
        while endpoints and left and len(endpoints) < MAX_ENDPOINTS:
            endpoints.append(left.pop(next(iter(left))))
    rest = list(left.values())
    for start in range(0, len(rest), MAX_ENDPOINTS):
        chunk = rest[start : start + MAX_ENDPOINTS]
        empty = next((index for index, endpoints in enumerate(slices) if not endpoints), None)
        if empty is None:
            slices.append(chunk)
        else:
            slices[empty] = chunk
    return slices


def _family(address: object) -> str:
    try:
        return f"IPv{ipaddress.ip_address(str(address)).version}"
    except ValueError:
        return ""


def _ports(service: Json, pod: Json) -> tuple[tuple[str, str, int], ...]:
    found = []
    for port in items_of(service["spec"].get("ports")):
        protocol = port.get("protocol", "TCP")
        number = _target(pod, port.get("targetPort") or port["port"], protocol)
        if number:
            found.append((port.get("name", ""), protocol, number))
    return tuple(found)


def _target(pod: Json, target: object, protocol: str) -> int:
    """The number of a target port; 0 when the pod has no port of that name."""
    if isinstance(target, int):
        return target
    for container in items_of(map_of(pod.get("spec")).get("containers")):
        for port in items_of(container.get("ports")):
            if (port.get("name"), port.get("protocol", "TCP")) == (target, protocol):
                return int(port["containerPort"])
    return 0


def _endpoint(service: Json, pod: Json, address: str, zones: Mapping[str, str]) -> Json:
    meta, spec = pod["metadata"], map_of(pod.get("spec"))
    serving, terminating = _is_ready(pod), bool(meta.get("deletionTimestamp"))
    publish = bool(service["spec"].get("publishNotReadyAddresses"))
    ready = publish or (serving and not terminating)
    node = spec.get("nodeName", "")
    endpoint: Json = {
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {
            "kind": "Pod",
            "namespace": meta.get("namespace", ""),
            "name": meta["name"],
            "uid": meta.get("uid", ""),
        },
    }
    optional = {
        "nodeName": node,
        "zone": zones.get(node, ""),
        "hostname": _hostname(service, spec),
        "hints": _hints(service, node, zones.get(node, "")) if ready else None,
    }
    return {**endpoint, **{name: value for name, value in optional.items() if value}}


def _is_ready(pod: Json) -> bool:
    conditions = items_of(map_of(pod.get("status")).get("conditions"))
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _hostname(service: Json, pod_spec: Json) -> str:
    ours = pod_spec.get("subdomain") == service["metadata"]["name"]
    return str(pod_spec.get("hostname") or "") if ours else ""


def _hints(service: Json, node: str, zone: str) -> Json:
    wish = service["spec"].get("trafficDistribution")
    hints: Json = {}
    if wish in ("PreferClose", "PreferSameZone", "PreferSameNode") and zone:
        hints["forZones"] = [{"name": zone}]
    if wish == "PreferSameNode" and node:
        hints["forNodes"] = [{"name": node}]
    return hints
