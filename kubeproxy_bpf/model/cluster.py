# SPDX-License-Identifier: Apache-2.0
"""The cluster as this node has to serve it: takes object changes in, gives wanted changes out.

It only decides *what* to compile again: a change of one Service, slice or Pod concerns that one
Service or Pod (and the few that contest a frontend with it), a change of the node those that depend
on it. What a Service means is in ``desired``. Changes coalesce: between two calls of ``take`` each
object counts once, and one that changed and changed back not at all. Nothing comes out before all
lists are known: a Service whose slices are not here yet is not one without endpoints. Pure, but for
its own memory; not for several threads. Called by ``sync``.
"""

from __future__ import annotations

from collections import Counter
from typing import Iterable, Mapping, NamedTuple

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.api.objects import EndpointSlice, Node, ObjectKey, Pod, Service
from kubeproxy_bpf.model.access import api_server_ports
from kubeproxy_bpf.model.addresses import is_link_local
from kubeproxy_bpf.model.desired import compile_service
from kubeproxy_bpf.model.endpoints import problems_of
from kubeproxy_bpf.model.facts import ModelConfig, NodeAddresses, NodeFacts, PortNumber
from kubeproxy_bpf.model.health import HealthCheck, health_checks_of, wants_health_check
from kubeproxy_bpf.model.hostports import compile_pod
from kubeproxy_bpf.model.ledger import Compiled, Given, Ledger, Source
from kubeproxy_bpf.model.slices import API_SERVER, SliceIndex
from kubeproxy_bpf.model.types import Changes, Problem, Protocol
from kubeproxy_bpf.model.vips import VipTable


class Step(NamedTuple):
    """What came out of a ``take``."""

    changes: Changes
    problems: tuple[Problem, ...]
    """Those of the objects looked at that they did not have before."""
    health_checks: Mapping[ObjectKey, tuple[HealthCheck, ...]] = {}
    """What health checks have to answer for the Services looked at; none any more where empty."""


_GONE = Compiled("", {}, ())
_TCP = int(Protocol.TCP)


class ClusterModel:
    """All objects that matter to this node, and what was last given out for them."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._facts = NodeFacts()
        self._services: dict[ObjectKey, Service] = {}
        self._pods: dict[ObjectKey, Pod] = {}
        self._slices = SliceIndex()
        self._slice_problems: dict[ObjectKey, tuple[Problem, ...]] = {}
        self._new_slice_problems: dict[ObjectKey, tuple[Problem, ...]] = {}
        self._health: dict[ObjectKey, tuple[HealthCheck, ...]] = {}
        self._looked_at: dict[ObjectKey, tuple[HealthCheck, ...]] = {}
        self._check_ports: Counter[PortNumber] = Counter()
        self._checks_moved = False
        self._vips = VipTable()
        self._ledger = Ledger(self._vips)
        self._dirty: dict[Source, None] = {}
        self._known = False
        self._everything = False
        self._prune = False

    # What arrives unchanged, as after a relist, costs one comparison and no compilation [K14].

    def set_service(self, service: Service) -> None:
        key = service.key
        before = self._services.get(key)
        if before != service:
            self._count_check(before, -1)
            self._count_check(service, 1)
            self._services[key] = service
            self._touch_service(key)

    def remove_service(self, key: ObjectKey) -> None:
        before = self._services.pop(key, None)
        if before is not None:
            self._count_check(before, -1)
            self._touch_service(key)

    def set_slice(self, endpoint_slice: EndpointSlice) -> None:
        self._judge_slice(endpoint_slice)
        self._slices_changed(self._slices.put(endpoint_slice))

    def remove_slice(self, key: ObjectKey) -> None:
        self._slice_problems.pop(key, None)
        self._new_slice_problems.pop(key, None)
        self._slices_changed(self._slices.remove(key))

    def remember_api_server(self, slices: Iterable[EndpointSlice]) -> None:
        """Take in the last endpoints of the API server's Service that an earlier process knew:
        they count while there are no others."""
        if self._slices.remember(slices):
            self._slices_changed({API_SERVER})

    def api_server_slices(self) -> tuple[EndpointSlice, ...]:
        """What the API server's Service is served with: the last known endpoints, if need be."""
        return self._slices.of(API_SERVER)

    def set_pod(self, pod: Pod) -> None:
        if self._pods.get(pod.key) != pod:
            self._pods[pod.key] = pod
            self._touch(Source("pod", *pod.key))

    def remove_pod(self, key: ObjectKey) -> None:
        if self._pods.pop(key, None) is not None:
            self._touch(Source("pod", *key))

    def set_node(self, node: Node) -> None:
        """Take in a Node; only the own one counts. After its deletion its last zone stays [D7]."""
        if node.name != self._config.node_name or node.zone == self._facts.zone:
            return
        self._facts = self._facts._replace(zone=node.zone)
        for service, slices in self._slices:
            if any(traits.hint_zones for s in slices for traits in s.traits):
                self._touch_service(service)

    def set_node_addresses(self, addresses: NodeAddresses) -> None:
        """Take in the node's own addresses; backends that live on one of them are marked."""
        # Every pod's veth brings a link-local address, which no endpoint ever has.
        moved = frozenset(
            address for address in self._facts.local ^ addresses.local if not is_link_local(address)
        )
        self._vips.set_node(addresses)
        self._facts = self._facts._replace(local=addresses.local)
        if not moved:
            return
        for service, slices in self._slices:
            if not all(moved.isdisjoint(s.addresses) for s in slices):
                self._touch_service(service)
        for pod in self._pods:
            self._touch(Source("pod", *pod))
        self._find_api_server()
        for key, named in self._services.items():
            if not moved.isdisjoint(_external_addresses(named)):
                self._touch_service(key)

    def set_node_ips(self, ips: Iterable[bytes]) -> None:
        """Take in by which address of each family the cluster knows this node [K3]."""
        node_ips = frozenset(ips)
        if node_ips == self._facts.node_ips:
            return
        self._facts = self._facts._replace(node_ips=node_ips)
        for key, service in self._services.items():
            if service.source_ranges:
                self._touch_service(key)

    def mark_complete(self, prune: bool = True) -> None:
        """Say that all lists are known: the next ``take`` gives everything, as ``complete``.

        Without ``prune`` as changes that leave alone what they do not name, since some objects of
        the lists are unreadable. May be said again for a full synchronisation.
        """
        self._known = self._everything = True
        self._prune = prune
        for key in self._services:
            self._touch_service(key)
        for key in self._pods:
            self._touch(Source("pod", *key))

    @property
    def has_changes(self) -> bool:
        """Whether a ``take`` has anything to look at."""
        return self._known and bool(self._dirty or self._everything or self._vips.has_changes)

    def take(self) -> Step:
        """Compile what changed since the last time; empty until all lists are known."""
        if not self._known:
            return Step(Changes({}, {}), ())
        self._find_checks()
        dirty, self._dirty = self._dirty, {}
        everything, self._everything = self._everything, False
        compiled = {source: self._compile(source) for source in dirty}
        for source in self._settle(compiled):
            compiled[source] = self._compile(source)
        services: Given = {}
        problems = [p for found in self._new_slice_problems.values() for p in found]
        self._new_slice_problems = {}
        for source, result in compiled.items():
            problems += self._ledger.give_out(source, result, everything, services)
        changes = Changes(
            services, self._vips.take(everything), complete=everything and self._prune
        )
        health_checks, self._looked_at = self._looked_at, {}
        return Step(changes, tuple(problems), health_checks)

    def problems(self) -> list[Problem]:
        """All that is wrong as of the last ``take``, sorted."""
        found = set(self._ledger.problems())
        for problems in self._slice_problems.values():
            found.update(problems)
        return sorted(found)

    def health_checks(self) -> list[HealthCheck]:
        """What health checks have to answer as of the last ``take``, sorted."""
        return sorted(check for checks in self._health.values() for check in checks)

    def _touch(self, source: Source) -> None:
        self._dirty[source] = None

    def _touch_service(self, key: ObjectKey) -> None:
        if self._known:  # until then all are, as ``mark_complete`` says
            self._touch(Source("service", *key))

    def _slices_changed(self, services: Iterable[ObjectKey]) -> None:
        for service in services:
            self._touch_service(service)
            if service == API_SERVER:
                self._find_api_server()

    def _find_api_server(self) -> None:
        """See on which ports of this node an API server listens; no Service may take them."""
        ports = api_server_ports(self._slices.of(API_SERVER), self._facts.local)
        if ports == self._facts.api_server_ports:
            return
        self._facts = self._facts._replace(api_server_ports=ports)
        for key, service in self._services.items():
            if service.external_ips or service.ingress:
                self._touch_service(key)

    def _count_check(self, service: Service | None, step: int) -> None:
        """A Service with a health check comes or goes."""
        if service is not None and wants_health_check(service):
            self._check_ports[service.health_check_node_port, _TCP] += step
            self._checks_moved = True

    def _find_checks(self) -> None:
        """See which ports our health checks have now; no Service may take them on this node."""
        if not self._checks_moved:
            return
        self._checks_moved = False
        self._check_ports = +self._check_ports
        moved = self._facts.health_check_ports.symmetric_difference(self._check_ports)
        if not moved:
            return
        self._facts = self._facts._replace(health_check_ports=frozenset(self._check_ports))
        numbers = {number for number, _ in moved}
        for key, service in self._services.items():
            if service.external_ips or service.ingress:
                if any(port.port in numbers for port in service.ports):
                    self._touch_service(key)

    def _judge_slice(self, endpoint_slice: EndpointSlice) -> None:
        problems = problems_of(endpoint_slice)
        if not (problems or self._slice_problems):
            return
        before = self._slice_problems.pop(endpoint_slice.key, ())
        fresh = tuple(problem for problem in problems if problem not in before)
        if problems:
            self._slice_problems[endpoint_slice.key] = problems
        if fresh:
            self._new_slice_problems[endpoint_slice.key] = fresh

    def _compile(self, source: Source) -> Compiled:
        key = ObjectKey(source.namespace, source.name)
        if source.kind == "pod":
            pod = self._pods.get(key)
            if pod is None:
                return _GONE
            return Compiled(pod.created, *compile_pod(pod, self._facts, self._config))
        service = self._services.get(key)
        if service is None:
            self._set_health(key, ())
            return _GONE
        slices = self._slices.of(key)
        ports, problems = compile_service(service, slices, self._facts, self._config)
        checks, more = health_checks_of(service, slices, self._config)
        self._set_health(key, checks)
        return Compiled(service.created, ports, problems + more)

    def _set_health(self, key: ObjectKey, checks: tuple[HealthCheck, ...]) -> None:
        if self._health.pop(key, ()) or checks:
            self._looked_at[key] = checks
        if checks:
            self._health[key] = checks

    def _settle(self, compiled: dict[Source, Compiled]) -> set[Source]:
        """Settle the claims of all; return the sources that have to be compiled as well."""
        moved: set[Source] = set()
        for source, result in compiled.items():
            moved |= self._ledger.settle(source, result)
        return moved - compiled.keys()


def _external_addresses(service: Service) -> list[bytes | None]:
    """All that the Service names, to be served or not."""
    return [
        parse_address(text)
        for text in (*service.external_ips, *(ingress.ip for ingress in service.ingress))
    ]
