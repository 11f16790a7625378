# SPDX-License-Identifier: Apache-2.0
"""What a cluster refuses to store, as far as Services, EndpointSlices and Events go. Pure.

``problems_of`` returns (field, message) pairs and runs on defaulted objects. Whether an address or
a node port is free is ``services``' to say.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Callable, Iterator, Mapping

from .defaults import items_of, map_of
from .events import event_problems
from .resources import Resource
from .status import Json

Problem = tuple[str, str]

_DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_PROTOCOLS = ("TCP", "UDP", "SCTP")
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "type": ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
    "sessionAffinity": ("None", "ClientIP"),
    "internalTrafficPolicy": ("Cluster", "Local"),
    "externalTrafficPolicy": ("Cluster", "Local"),
    "ipFamilyPolicy": ("SingleStack", "PreferDualStack", "RequireDualStack"),
    "trafficDistribution": ("PreferClose", "PreferSameZone", "PreferSameNode"),
}


def problems_of(resource: Resource, obj: Json, before: Json | None) -> list[Problem]:
    check = _BY_KIND.get(resource.kind)
    found = list(_metadata(resource, obj["metadata"]))
    return found + (list(check(obj, before)) if check else [])


def _metadata(resource: Resource, meta: Json) -> Iterator[Problem]:
    name = meta.get("name")
    pattern = _DNS_LABEL if resource.kind == "Service" else _DNS_SUBDOMAIN
    if not isinstance(name, str) or not pattern.fullmatch(name) or len(name) > 253:
        yield "metadata.name", f'Invalid value: "{name}": not a valid DNS name'
    for key, value in map_of(meta.get("labels")).items():
        if not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            yield "metadata.labels", f'Invalid value: "{key}={value}": not a label value'


def _service(obj: Json, before: Json | None) -> Iterator[Problem]:
    spec = obj.get("spec")
    if not isinstance(spec, dict):
        yield "spec", "Required value"
        return
    for field, choices in _CHOICES.items():
        if field in spec and spec[field] not in choices:
            supported = ", ".join(f'"{choice}"' for choice in choices)
            yield f"spec.{field}", f'Unsupported value: "{spec[field]}": supported: {supported}'
    yield from _service_ports(spec)
    yield from _service_addresses(spec)
    yield from _affinity_timeout(spec)
    if before is not None:
        yield from _fixed_cluster_ip(spec, map_of(before.get("spec")))


def _service_ports(spec: Json) -> Iterator[Problem]:
    ports = spec.get("ports") or []
    if not ports and spec.get("clusterIP") != "None" and spec.get("type") != "ExternalName":
        yield "spec.ports", "Required value"
    if not isinstance(ports, list) or not all(isinstance(port, dict) for port in ports):
        yield "spec.ports", "Invalid value: not a list of ports"
        return
    seen: set[object] = set()
    for index, port in enumerate(ports):
        field = f"spec.ports[{index}]"
        yield from _port(field, port, named=len(ports) > 1)
        if port.get("nodePort") and spec.get("type") not in ("NodePort", "LoadBalancer"):
            yield f"{field}.nodePort", f"Forbidden: may not be used when type is {spec.get('type')}"
        for value in (port.get("name"), (port.get("protocol"), str(port.get("port")))):
            if value is not None and value in seen:
                yield field, f"Duplicate value: {value}"
            seen.add(value)


def _port(field: str, port: Json, *, named: bool) -> Iterator[Problem]:
    if not _is_port(port.get("port")):
        yield f"{field}.port", f"Invalid value: {port.get('port')!r}: must be between 1 and 65535"
    if port.get("protocol") not in _PROTOCOLS:
        yield f"{field}.protocol", f'Unsupported value: "{port.get("protocol")}"'
    if named and not port.get("name"):
        yield f"{field}.name", "Required value"
    target = port.get("targetPort")
    if isinstance(target, str):
        if not _PORT_NAME.fullmatch(target) or len(target) > 15:
            yield f"{field}.targetPort", f'Invalid value: "{target}": not a port name'
    elif not _is_port(target):
        yield f"{field}.targetPort", f"Invalid value: {target!r}: must be between 1 and 65535"


def _is_port(value: Any, lowest: int = 1) -> bool:
    return type(value) is int and lowest <= value <= 65535


def _service_addresses(spec: Json) -> Iterator[Problem]:
    for index, ip in enumerate(spec.get("externalIPs") or []):
        if _address(ip) is None or ip in ("0.0.0.0", "::") or ip.startswith("127."):
            yield f"spec.externalIPs[{index}]", f'Invalid value: "{ip}": not a usable IP address'
    for index, cidr in enumerate(spec.get("loadBalancerSourceRanges") or []):
        try:
            ipaddress.ip_network(str(cidr).strip(), strict=False)
        except ValueError:
            yield f"spec.LoadBalancerSourceRanges[{index}]", f'Invalid value: "{cidr}"'
    external = spec.get("type") in ("NodePort", "LoadBalancer") or spec.get("externalIPs")
    if "externalTrafficPolicy" in spec and not external:
        yield "spec.externalTrafficPolicy", "Invalid value: may only be set for external services"


def _address(value: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _affinity_timeout(spec: Json) -> Iterator[Problem]:
    config = map_of(map_of(spec.get("sessionAffinityConfig")).get("clientIP"))
    timeout = config.get("timeoutSeconds")
    if config and (type(timeout) is not int or not 0 < timeout <= 86400):
        yield (
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            f"Invalid value: {timeout!r}: must be greater than 0 and at most 86400",
        )


def _fixed_cluster_ip(spec: Json, before: Json) -> Iterator[Problem]:
    if "ExternalName" in (spec.get("type"), before.get("type")):
        return
    was = before.get("clusterIP")
    if was and spec.get("clusterIP") != was:
        message = f'Invalid value: "{spec.get("clusterIP")}": may not change once set'
        yield "spec.clusterIPs[0]", message


def _endpoint_slice(obj: Json, before: Json | None) -> Iterator[Problem]:
    family = obj.get("addressType")
    if family not in ("IPv4", "IPv6", "FQDN"):
        yield "addressType", f'Unsupported value: "{family}"'
    if before is not None and before.get("addressType") != family:
        yield "addressType", "Invalid value: field is immutable"
    endpoints = obj.get("endpoints") or []
    if len(endpoints) > 1000:
        yield "endpoints", f"Too many: {len(endpoints)}: must have at most 1000 items"
    for index, endpoint in enumerate(items_of(endpoints)):
        yield from _endpoint(f"endpoints[{index}]", endpoint, str(family))
    for index, port in enumerate(items_of(obj.get("ports"))):
        number = port.get("port")
        if number is not None and not _is_port(number, lowest=0):
            yield f"ports[{index}].port", f"Invalid value: {number!r}"
        if port.get("protocol") not in _PROTOCOLS:
            yield f"ports[{index}].protocol", f'Unsupported value: "{port.get("protocol")}"'


def _endpoint(field: str, endpoint: Json, family: str) -> Iterator[Problem]:
    addresses = endpoint.get("addresses")
    if not isinstance(addresses, list) or not 1 <= len(addresses) <= 100:
        yield f"{field}.addresses", "Required value: between 1 and 100 addresses"
        return
    for index, text in enumerate(addresses):
        address = _address(text)
        if family in ("IPv4", "IPv6") and (address is None or f"IPv{address.version}" != family):
            yield f"{field}.addresses[{index}]", f'Invalid value: "{text}": not an {family} address'


_BY_KIND: Mapping[str, Callable[[Json, Json | None], Iterator[Problem]]] = {
    "Service": _service,
    "EndpointSlice": _endpoint_slice,
    "Event": event_problems,
}
