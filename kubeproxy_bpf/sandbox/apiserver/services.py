# SPDX-License-Identifier: Apache-2.0
"""Cluster IPs, families and node ports of Services: what the server gives, and what is taken.

``Claims`` follows the store, so objects that a test puts there directly count as well. Choosing
writes nothing: a claim is made by the object that is stored, so a dry run makes none.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Iterator, Sequence

from .defaults import items_of, map_of
from .resources import SERVICES, Key
from .status import Json, invalid
from .store import DELETED, Event, Store

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NODE_PORTS = range(30000, 32768)


class Claims:
    """Who holds which address and node port."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._addresses: dict[str, Key] = {}
        self._ports: dict[int, Key] = {}
        self._ready = False

    def address_owner(self, address: str) -> Key | None:
        self._prepare()
        return self._addresses.get(address)

    def port_owner(self, port: int) -> Key | None:
        self._prepare()
        return self._ports.get(port)

    def _prepare(self) -> None:
        """Read the store at the first question only: a server full of Services starts faster."""
        if self._ready:
            return
        self._ready = True
        for entry in self._store.snapshot(SERVICES):
            self._claim(entry.key, entry.obj)
        self._store.table(SERVICES).observers.append(self._follow)

    def _follow(self, event: Event) -> None:
        if event.previous is not None:
            spec = map_of(event.previous.obj.get("spec"))
            for address in _addresses(spec):
                self._addresses.pop(address, None)
            for port in _node_ports(spec):
                self._ports.pop(port, None)
        if event.type != DELETED:
            self._claim(event.entry.key, event.entry.obj)

    def _claim(self, key: Key, obj: Json) -> None:
        spec = map_of(obj.get("spec"))
        for address in _addresses(spec):
            self._addresses.setdefault(address, key)
        for port in _node_ports(spec):
            self._ports.setdefault(port, key)


class ServiceRules:
    """Completes the spec of a Service."""

    def __init__(
        self, store: Store, cidrs: Sequence[Network], node_ports: range = NODE_PORTS
    ) -> None:
        self._claims = Claims(store)
        self._cidrs = {f"IPv{cidr.version}": cidr for cidr in cidrs}
        self._node_ports = node_ports
        self._next_address = dict.fromkeys(self._cidrs, 0)
        self._next_port = 0

    def completed(self, key: Key, obj: Json, before: Json | None, *, strict: bool) -> Json:
        """The Service with all that a cluster gives it; 422 for what it may not have."""
        if not isinstance(obj.get("spec"), dict):
            return obj
        spec = dict(obj["spec"])
        was = map_of((before or {}).get("spec"))
        if spec.get("type") == "ExternalName":
            for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                spec.pop(field, None)
        else:
            self._complete_addresses(key, spec, was, strict)
        self._complete_ports(key, spec, was, strict)
        return {**obj, "spec": spec}

    def _complete_addresses(self, key: Key, spec: Json, was: Json, strict: bool) -> None:
        if was.get("type") != "ExternalName" and not spec.get("clusterIP"):
            for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                if field in was:
                    spec.setdefault(field, was[field])
        given = _given_addresses(spec)
        families = self._families(key, spec, given, strict)
        if given[:1] == ["None"]:
            addresses = ["None"]
        else:
            given += [""] * (len(families) - len(given))
            addresses = [
                self._address(key, family, text, index, strict)
                for index, (family, text) in enumerate(zip(families, given))
            ]
        spec["clusterIP"] = addresses[0] if addresses else ""
        spec["clusterIPs"] = addresses
        spec["ipFamilies"] = families

    def _families(self, key: Key, spec: Json, given: list[str], strict: bool) -> list[str]:
        families = [str(family) for family in spec.get("ipFamilies") or []]
        families = families or [family for ip in given if (family := _family(ip))]
        families = families or list(self._cidrs)[:1]
        wide = len(families) > 1 or len(given) > 1
        policy = spec.setdefault("ipFamilyPolicy", "RequireDualStack" if wide else "SingleStack")
        if policy == "SingleStack":
            return families[:1]
        families += [family for family in self._cidrs if family not in families]
        problems = [
            (
                f"spec.ipFamilies[{index}]",
                f'Invalid value: "{family}": not configured on this cluster',
            )
            for index, family in enumerate(families)
            if family not in self._cidrs
        ]
        if policy == "RequireDualStack" and len(families) < 2:
            problems.append(("spec.ipFamilyPolicy", "Invalid value: the cluster is not dual-stack"))
        if problems and strict:
            raise invalid("Service", key.name, problems)
        return families

    def _address(self, key: Key, family: str, text: str, index: int, strict: bool) -> str:
        if not text:
            return self._free_address(key, family)
        problem = self._address_problem(key, family, text)
        if problem and strict:
            message = f'Invalid value: "{text}": {problem}'
            raise invalid("Service", key.name, [(f"spec.clusterIPs[{index}]", message)])
        return text

    def _address_problem(self, key: Key, family: str, text: str) -> str:
        if _family(text) != family:
            return f"must be a valid {family} address"
        cidr = self._cidrs.get(family)
        if cidr is None or ipaddress.ip_address(text) not in cidr:
            return f"provided IP is not in the valid range ({cidr})"
        if self._claims.address_owner(text) not in (None, key):
            return "provided IP is already allocated"
        return ""

    def _free_address(self, key: Key, family: str) -> str:
        cidr = self._cidrs.get(family)
        # The first address is default/kubernetes's by custom; the last is no host's in IPv4.
        count = min(cidr.num_addresses - 3, 1 << 20) if cidr else 0
        for _ in range(count):
            offset = self._next_address[family]
            self._next_address[family] = (offset + 1) % count
            address = str(cidr[offset + 2]) if cidr else ""
            if self._claims.address_owner(address) is None:
                return address
        message = f"failed to allocate a cluster IP: no {family} range, or it is full"
        raise invalid("Service", key.name, [("spec.clusterIPs", message)])

    def _complete_ports(self, key: Key, spec: Json, was: Json, strict: bool) -> None:
        wanted = spec.get("type") == "NodePort" or (
            spec.get("type") == "LoadBalancer"
            and spec.get("allocateLoadBalancerNodePorts") is not False
        )
        held = {_port_id(port): port.get("nodePort") for port in items_of(was.get("ports"))}
        taken: set[int] = set()
        if isinstance(spec.get("ports"), list):
            spec["ports"] = [
                self._node_port(key, port, held, wanted, strict, taken)
                for port in spec["ports"]
                if isinstance(port, dict) or not strict
            ]
        self._complete_health_port(key, spec, was, taken, strict)

    def _node_port(
        self,
        key: Key,
        port: Any,
        held: dict[object, Any],
        wanted: bool,
        strict: bool,
        taken: set[int],
    ) -> Any:
        if not isinstance(port, dict):
            return port
        filled = dict(port)
        if not wanted:
            if filled.get("nodePort") == held.get(_port_id(port)):
                filled.pop("nodePort", None)
            return filled
        number = filled.get("nodePort") or held.get(_port_id(port))
        if not number:
            number = self._free_port(key, taken)
        elif strict:
            self._check_port(key, "spec.ports.nodePort", number)
        taken.add(number)
        filled["nodePort"] = number
        return filled

    def _complete_health_port(
        self, key: Key, spec: Json, was: Json, taken: set[int], strict: bool
    ) -> None:
        field = "healthCheckNodePort"
        local = spec.get("externalTrafficPolicy") == "Local"
        if not (local and spec.get("type") == "LoadBalancer"):
            if strict:
                spec.pop(field, None)
            return
        spec[field] = spec.get(field) or was.get(field) or self._free_port(key, taken)
        if strict:
            self._check_port(key, f"spec.{field}", spec[field])

    def _check_port(self, key: Key, field: str, number: Any) -> None:
        problem = ""
        if number not in self._node_ports:
            low, high = self._node_ports[0], self._node_ports[-1]
            problem = (
                f"provided port is not in the valid range. The range of valid ports is {low}-{high}"
            )
        elif self._claims.port_owner(number) not in (None, key):
            problem = "provided port is already allocated"
        if problem:
            raise invalid("Service", key.name, [(field, f"Invalid value: {number}: {problem}")])

    def _free_port(self, key: Key, taken: set[int]) -> int:
        for _ in self._node_ports:
            port = self._node_ports[self._next_port]
            self._next_port = (self._next_port + 1) % len(self._node_ports)
            if port not in taken and self._claims.port_owner(port) is None:
                return port
        raise invalid("Service", key.name, [("spec.ports.nodePort", "no node port is free")])


def _given_addresses(spec: Json) -> list[str]:
    addresses = [str(address) for address in spec.get("clusterIPs") or []]
    first = str(spec.get("clusterIP") or "")
    return [first, *addresses[1:]] if first else addresses


def _family(text: str) -> str:
    try:
        return f"IPv{ipaddress.ip_address(text).version}"
    except ValueError:
        return ""


def _addresses(spec: Json) -> Iterator[str]:
    return (text for text in _given_addresses(spec) if text not in ("", "None"))


def _node_ports(spec: Json) -> Iterator[int]:
    numbers = [port.get("nodePort") for port in items_of(spec.get("ports"))]
    numbers.append(spec.get("healthCheckNodePort"))
    return (number for number in numbers if isinstance(number, int) and number)


def _port_id(port: Json) -> object:
    return (str(port.get("protocol")), str(port.get("port")))
