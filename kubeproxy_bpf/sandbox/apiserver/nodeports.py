# SPDX-License-Identifier: Apache-2.0
"""Node ports of Services: which the server gives, keeps, takes back and refuses."""

from __future__ import annotations

from typing import Any

from .claims import Claims
from .defaults import items_of
from .resources import Key
from .status import Json, invalid

NODE_PORTS = range(30000, 32768)


class NodePorts:
    def __init__(self, claims: Claims, ports: range = NODE_PORTS) -> None:
        self._claims = claims
        self._range = ports
        self._next = 0

    def complete(self, key: Key, spec: Json, was: Json, *, strict: bool) -> None:
        """Complete the ports of a spec; ``strict`` refuses what a cluster would."""
        ports = spec.get("ports")
        if isinstance(ports, list):
            held = {_port_id(port): port.get("nodePort") for port in items_of(was.get("ports"))}
            if _wants_node_ports(spec):
                spec["ports"] = self._with_node_ports(key, ports, held, strict)
            else:
                spec["ports"] = [_without_node_port(port, held) for port in ports]
        self._complete_health_port(key, spec, was, strict)

    def _with_node_ports(
        self, key: Key, ports: list[Any], held: dict[object, Any], strict: bool
    ) -> list[Any]:
        taken: set[int] = set()
        completed = []
        for port in ports:
            if isinstance(port, dict):
                number = port.get("nodePort") or held.get(_port_id(port))
                if not number:
                    number = self._free(key, taken)
                elif strict:
                    self._check(key, "spec.ports.nodePort", number)
                taken.add(number)
                port = {**port, "nodePort": number}
            completed.append(port)
        return completed

    def _complete_health_port(self, key: Key, spec: Json, was: Json, strict: bool) -> None:
        field = "healthCheckNodePort"
        local = spec.get("externalTrafficPolicy") == "Local"
        if not (local and spec.get("type") == "LoadBalancer"):
            if strict:
                spec.pop(field, None)
            return
        taken = {port.get("nodePort") for port in items_of(spec.get("ports"))}
        spec[field] = spec.get(field) or was.get(field) or self._free(key, taken)
        if strict:
            self._check(key, f"spec.{field}", spec[field])

    def _check(self, key: Key, field: str, number: Any) -> None:
        problem = ""
        if number not in self._range:
            limits = f"{self._range[0]}-{self._range[-1]}"
            problem = f"provided port is not in the valid range. The range is {limits}"
        elif self._claims.port_owner(number) not in (None, key):
            problem = "provided port is already allocated"
        if problem:
            raise invalid("Service", key.name, [(field, f"Invalid value: {number}: {problem}")])

    def _free(self, key: Key, taken: set[Any]) -> int:
        for _ in self._range:
            port = self._range[self._next]
            self._next = (self._next + 1) % len(self._range)
            if port not in taken and self._claims.port_owner(port) is None:
                return port
        raise invalid("Service", key.name, [("spec.ports.nodePort", "no node port is free")])


def _wants_node_ports(spec: Json) -> bool:
    if spec.get("type") == "LoadBalancer":
        return spec.get("allocateLoadBalancerNodePorts") is not False
    return spec.get("type") == "NodePort"


def _without_node_port(port: Any, held: dict[object, Any]) -> Any:
    """A node port that the Service had goes away with its type; one asked for anew stays."""
    if not isinstance(port, dict) or port.get("nodePort") != held.get(_port_id(port)):
        return port
    return {name: value for name, value in port.items() if name != "nodePort"}


def _port_id(port: Json) -> object:
    return (str(port.get("protocol")), str(port.get("port")))
