# SPDX-License-Identifier: Apache-2.0
"""Who holds which cluster IP and node port.

Follows the store, so objects that a test puts there directly count as well. Choosing writes
nothing: a claim is made by the object that is stored, so a dry run makes none.
"""

from __future__ import annotations

import ipaddress
from typing import Iterator

from .defaults import items_of, map_of
from .resources import SERVICES, Key
from .status import Json
from .store import DELETED, Event, Store


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
            for address in _claimed_addresses(spec):
                self._addresses.pop(address, None)
            for port in _claimed_ports(spec):
                self._ports.pop(port, None)
        if event.type != DELETED:
            self._claim(event.entry.key, event.entry.obj)

    def _claim(self, key: Key, obj: Json) -> None:
        spec = map_of(obj.get("spec"))
        for address in _claimed_addresses(spec):
            self._addresses.setdefault(address, key)
        for port in _claimed_ports(spec):
            self._ports.setdefault(port, key)


def given_addresses(spec: Json) -> list[str]:
    """The cluster IPs that a spec names; clusterIP wins over the first of clusterIPs."""
    addresses = [str(address) for address in spec.get("clusterIPs") or []]
    first = str(spec.get("clusterIP") or "")
    return [first, *addresses[1:]] if first else addresses


def family_of(text: str) -> str:
    """IPv4 or IPv6; empty for what is no address."""
    try:
        return f"IPv{ipaddress.ip_address(text).version}"
    except ValueError:
        return ""


def _claimed_addresses(spec: Json) -> Iterator[str]:
    return (text for text in given_addresses(spec) if text not in ("", "None"))


def _claimed_ports(spec: Json) -> Iterator[int]:
    numbers = [port.get("nodePort") for port in items_of(spec.get("ports"))]
    numbers.append(spec.get("healthCheckNodePort"))
    return (number for number in numbers if isinstance(number, int) and number)
