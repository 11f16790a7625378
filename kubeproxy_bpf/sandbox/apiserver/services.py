# SPDX-License-Identifier: Apache-2.0
"""Cluster IPs and families of Services, as a cluster gives, keeps and refuses them.

Node ports are ``nodeports``' part; what is taken, ``claims`` knows.
"""

from __future__ import annotations

import ipaddress
from typing import Sequence

from .claims import Claims, family_of, given_addresses
from .defaults import map_of
from .nodeports import NODE_PORTS, NodePorts
from .resources import Key
from .status import Json, invalid
from .store import Store

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ServiceRules:
    """Completes the spec of a Service."""

    def __init__(
        self, store: Store, cidrs: Sequence[Network], node_ports: range = NODE_PORTS
    ) -> None:
        self._claims = Claims(store)
        self._node_ports = NodePorts(self._claims, node_ports)
        self._cidrs = {f"IPv{cidr.version}": cidr for cidr in cidrs}
        self._next_address = dict.fromkeys(self._cidrs, 0)

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
        self._node_ports.complete(key, spec, was, strict=strict)
        return {**obj, "spec": spec}

    def _complete_addresses(self, key: Key, spec: Json, was: Json, strict: bool) -> None:
        if was.get("type") != "ExternalName" and not spec.get("clusterIP"):
            for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                if field in was:
                    spec.setdefault(field, was[field])
        given = given_addresses(spec)
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
        families = families or [family for ip in given if (family := family_of(ip))]
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
        if family_of(text) != family:
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
