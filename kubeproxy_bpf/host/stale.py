# SPDX-License-Identifier: Apache-2.0
"""Which UDP entries of the kernel's connection tracking lead to where nobody serves [J1-J6].

Netfilter's NAT decides once per flow: datagrams of a client that goes on with one port follow its
first one for ever, to an endpoint that went away or, from a time without endpoints, to none. Flows
of our own table end by themselves; this is about those that kube-proxy's or other rules translated,
and those that passed untranslated. Pure. ``conntrack`` owns the one instance and acts on it.
"""

from __future__ import annotations

from typing import Iterable, Mapping, NamedTuple

from kubeproxy_bpf.host.ctnetlink import Endpoint, Entry
from kubeproxy_bpf.model.types import Changes, Desired, Family, Protocol, ServicePortId
from kubeproxy_bpf.plan.records import FrontendKind

Endpoints = frozenset[Endpoint]

_NONE: Endpoints = frozenset()


class Wanted(NamedTuple):
    """Who may answer for what, in one family; service ports without endpoints are not in it."""

    addresses: Mapping[Endpoint, Endpoints]
    """By cluster, external or load-balancer IP and port."""
    node_ports: Mapping[int, Endpoints]
    """On whatever address: only the node that translates knows which are its own."""

    @property
    def ports(self) -> set[int]:
        """All that entries to look at may be directed to."""
        return {port for _, port in self.addresses} | self.node_ports.keys()

    def is_stale(self, entry: Entry) -> bool:
        """Whether the client asked one of our Services, and none of its endpoints answers [J2]."""
        serving = self.addresses.get(entry.destination)
        if serving is None:
            serving = self.node_ports.get(entry.destination[1])
        return serving is not None and entry.answered_by not in serving

    def stale(self, entries: Iterable[Entry]) -> list[Entry]:
        return [entry for entry in entries if self.is_stale(entry)]


class _Port(NamedTuple):
    addresses: tuple[Endpoint, ...]
    node_ports: tuple[int, ...]
    serving: Endpoints
    """Of all nodes, draining ones too, whatever policies and hints say."""


class UdpServices:
    """The UDP service ports as of the last changes, and whose endpoints are others since."""

    def __init__(self) -> None:
        self._ports: dict[ServicePortId, _Port] = {}

    def note(self, changes: Changes) -> set[Family]:
        """Take in changes; return the families in which endpoints of a service port changed.

        Changes of Services alone concern nobody [J1], but for a new service port: its endpoints
        may have been known before it.
        """
        if changes.complete:
            for gone in self._ports.keys() - changes.services.keys():
                del self._ports[gone]
        changed = set()
        for port_id, desired in changes.services.items():
            if port_id.protocol == Protocol.UDP and port_id.source == "service":
                before = self._replace(port_id, desired)
                now = self._ports.get(port_id)
                if now is not None and now.serving != before:
                    changed.add(Family(port_id.family))
        return changed

    def wanted(self, family: Family) -> Wanted:
        """What entries of this family are judged by."""
        addresses: dict[Endpoint, Endpoints] = {}
        node_ports: dict[int, Endpoints] = {}
        for port_id, port in self._ports.items():
            # Without endpoints nothing better awaits a flow [J3].
            if port_id.family == family and port.serving:
                addresses.update((address, port.serving) for address in port.addresses)
                node_ports.update((number, port.serving) for number in port.node_ports)
        return Wanted(addresses, node_ports)

    def _replace(self, port_id: ServicePortId, desired: Desired | None) -> Endpoints:
        """Keep the new state, and return who served before."""
        before = self._ports.pop(port_id, None)
        if desired is not None:
            self._ports[port_id] = _port(desired)
        return before.serving if before is not None else _NONE


def _port(desired: Desired) -> _Port:
    frontends = desired.frontends
    return _Port(
        tuple((f.address, f.port) for f in frontends if f.kind != FrontendKind.NODE_PORT),
        tuple(f.port for f in frontends if f.kind == FrontendKind.NODE_PORT),
        frozenset((backend.address, backend.port) for backend in desired.backends),
    )
