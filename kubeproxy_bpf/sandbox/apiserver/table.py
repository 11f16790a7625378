# SPDX-License-Identifier: Apache-2.0
"""Columns and cells of ``kubectl get``, per kind, close to those of a real server.

Cells are made from objects that tests may have broken on purpose: what cannot be shown is
``<unknown>``.
"""

from __future__ import annotations

import datetime
from typing import Any, Callable, Mapping, NamedTuple

from .resources import Resource
from .status import Json

Cell = Callable[[Json], object]


class Column(NamedTuple):
    name: str
    cell: Cell
    priority: int = 0
    """Above 0: only with ``-o wide``."""


def columns_of(resource: Resource) -> list[Json]:
    return [
        {
            "name": column.name,
            "type": "string",
            "format": "name" if column.name == "Name" else "",
            "description": "",
            "priority": column.priority,
        }
        for column in _columns(resource)
    ]


def row_of(resource: Resource, obj: Json) -> list[object]:
    return [_shown(column.cell, obj) for column in _columns(resource)]


def _columns(resource: Resource) -> tuple[Column, ...]:
    return (
        (_NAME, *_COLUMNS.get(resource.storage, ()), _AGE)
        if resource.plural != "events"
        else _EVENT
    )


def _shown(cell: Cell, obj: Json) -> object:
    try:
        return cell(obj)
    except (AttributeError, KeyError, TypeError, ValueError):
        return "<unknown>"


def _at(path: str, default: object = "<none>") -> Cell:
    """A cell that shows one field."""

    def cell(obj: Json) -> object:
        value: Any = obj
        for step in path.split("."):
            value = (value or {}).get(step)
        return default if value in (None, "", []) else value

    return cell


def age_of(since: str) -> str:
    """The time since a timestamp in kubectl's short form."""
    then = datetime.datetime.fromisoformat(since.replace("Z", "+00:00"))
    seconds = int((datetime.datetime.now(datetime.timezone.utc) - then).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{max(0, seconds)}s"


def _ports(obj: Json) -> str:
    shown = []
    for port in obj["spec"].get("ports") or []:
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        shown.append(f"{port['port']}{node_port}/{port.get('protocol', 'TCP')}")
    return ",".join(shown) or "<none>"


def _external_ip(obj: Json) -> str:
    ingress = obj.get("status", {}).get("loadBalancer", {}).get("ingress") or []
    found = [entry.get("ip") or entry["hostname"] for entry in ingress]
    found += obj["spec"].get("externalIPs") or []
    waiting = obj["spec"].get("type") == "LoadBalancer"
    return ",".join(found) or ("<pending>" if waiting else "<none>")


def _selector(obj: Json) -> str:
    selector = obj["spec"].get("selector") or {}
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items())) or "<none>"


def _condition(obj: Json, kind: str) -> str:
    conditions = obj.get("status", {}).get("conditions") or []
    return next((c["status"] for c in conditions if c["type"] == kind), "Unknown")


def _node_status(obj: Json) -> str:
    shown = {"True": "Ready", "False": "NotReady"}.get(_condition(obj, "Ready"), "Unknown")
    return shown + (",SchedulingDisabled" if obj.get("spec", {}).get("unschedulable") else "")


def _node_address(obj: Json) -> str:
    addresses = obj.get("status", {}).get("addresses") or []
    return next((a["address"] for a in addresses if a["type"] == "InternalIP"), "<none>")


def _pod_ready(obj: Json) -> str:
    count = len(obj.get("spec", {}).get("containers") or [0])
    return f"{count if _condition(obj, 'Ready') == 'True' else 0}/{count}"


def _pod_status(obj: Json) -> object:
    deleting = obj["metadata"].get("deletionTimestamp")
    return "Terminating" if deleting else obj.get("status", {}).get("phase", "Pending")


def _slice_ports(obj: Json) -> str:
    return _few([str(port.get("port", "*")) for port in obj.get("ports") or []])


def _slice_endpoints(obj: Json) -> str:
    return _few([address for e in obj.get("endpoints") or [] for address in e["addresses"]])


def _few(values: list[str]) -> str:
    more = f" + {len(values) - 3} more..." if len(values) > 3 else ""
    return (",".join(values[:3]) + more) or "<unset>"


def _event_age(obj: Json) -> str:
    seen = obj.get("lastTimestamp") or obj.get("deprecatedLastTimestamp") or obj.get("eventTime")
    return age_of(seen or obj["metadata"]["creationTimestamp"])


def _event_object(obj: Json) -> str:
    about = obj.get("involvedObject") or obj.get("regarding") or {}
    return f"{about.get('kind', '').lower()}/{about.get('name', '')}"


_NAME = Column("Name", _at("metadata.name"))
_AGE = Column("Age", lambda obj: age_of(obj["metadata"]["creationTimestamp"]))
_EVENT = (
    Column("Last Seen", _event_age),
    Column("Type", _at("type")),
    Column("Reason", _at("reason")),
    Column("Object", _event_object),
    Column("Message", lambda obj: obj.get("message") or obj.get("note") or ""),
    Column("Name", _at("metadata.name"), 1),
)
_COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "namespaces": (Column("Status", _at("status.phase", "Active")),),
    "nodes": (
        Column("Status", _node_status),
        Column("Version", _at("status.nodeInfo.kubeletVersion", "")),
        Column("Internal-IP", _node_address, 1),
    ),
    "services": (
        Column("Type", _at("spec.type")),
        Column("Cluster-IP", _at("spec.clusterIP")),
        Column("External-IP", _external_ip),
        Column("Port(s)", _ports),
        Column("Selector", _selector, 1),
    ),
    "pods": (
        Column("Ready", _pod_ready),
        Column("Status", _pod_status),
        Column("IP", _at("status.podIP"), 1),
        Column("Node", _at("spec.nodeName"), 1),
    ),
    "configmaps": (Column("Data", lambda obj: str(len(obj.get("data") or {}))),),
    "endpointslices.discovery.k8s.io": (
        Column("AddressType", _at("addressType")),
        Column("Ports", _slice_ports),
        Column("Endpoints", _slice_endpoints),
    ),
    "servicecidrs.networking.k8s.io": (
        Column("CIDRs", lambda obj: ",".join(obj["spec"]["cidrs"])),
    ),
}
