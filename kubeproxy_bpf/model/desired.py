# SPDX-License-Identifier: Apache-2.0
"""From a Service and its EndpointSlices to what should be programmed: the semantics of a Service.

This is the function to read beside the Kubernetes documentation. It is pure, looks at one Service
only, and knows nothing of what was programmed before or of other Services; ``cluster`` calls it for
what changed, and ``claims`` settles what several Services want.
"""

from __future__ import annotations

from itertools import chain
from typing import Sequence

from kubeproxy_bpf.api.objects import EndpointSlice, Service
from kubeproxy_bpf.model.access import allowed_sources, without_protected
from kubeproxy_bpf.model.endpoints import (
    Endpoints,
    PortIndex,
    count_endpoints,
    endpoints_of,
    index_ports,
)
from kubeproxy_bpf.model.facts import ModelConfig, NodeFacts
from kubeproxy_bpf.model.frontends import frontends_of
from kubeproxy_bpf.model.problems import Report
from kubeproxy_bpf.model.services import (
    FamilyView,
    Port,
    SetsInUse,
    affinity_timeout_s,
    check_affinity,
    external_local,
    family_views,
    internal_local,
    is_consistent,
    is_served,
    note_sctp,
    ports_of,
    sets_in_use,
)
from kubeproxy_bpf.model.topology import choose_sets, is_local
from kubeproxy_bpf.model.types import BackendSpec, Desired, Problem, ServicePortId
from kubeproxy_bpf.plan.records import BackendFlags, RecordFlags

# Plain integers: the arithmetic of IntFlag costs more than all the rest for an endpoint.
_LOCAL = int(BackendFlags.LOCAL)
_HOST = int(BackendFlags.HOST)
_INTERNAL_LOCAL = int(RecordFlags.INTERNAL_LOCAL)
_EXTERNAL_LOCAL = int(RecordFlags.EXTERNAL_LOCAL)
_HAS_ENDPOINTS = int(RecordFlags.HAS_ENDPOINTS)
_CONSISTENT = int(RecordFlags.CONSISTENT)

Ports = dict[ServicePortId, Desired]


def compile_service(
    service: Service, slices: Sequence[EndpointSlice], facts: NodeFacts, config: ModelConfig
) -> tuple[Ports, tuple[Problem, ...]]:
    """All that should be programmed for a Service, and what is wrong with it.

    ``slices`` are those of this Service, in a fixed order.
    """
    ports: Ports = {}
    if not is_served(service):
        return ports, ()
    report = Report("Service", service.namespace, service.name)
    check_affinity(service, report)
    valid_ports = ports_of(service, report)
    note_sctp(valid_ports, report)
    policy = _policy_flags(service, is_consistent(service, config, report))
    index = index_ports(slices)
    views = family_views(service, config, report)
    if _is_too_large(views, valid_ports, index, config, report):
        return ports, report.problems
    for view in views:
        for port in valid_ports:
            port_id = ServicePortId(
                "service",
                service.namespace,
                service.name,
                port.name,
                port.protocol,
                int(view.family),
            )
            endpoints = endpoints_of(index, view.family, port.name, port.protocol)
            served = without_protected(view, port, facts, config, report)
            desired = _desired(service, served, port, endpoints, facts, config)
            ports[port_id] = desired._replace(flags=desired.flags | policy)
    return ports, report.problems


def _is_too_large(
    views: Sequence[FamilyView],
    ports: Sequence[Port],
    index: PortIndex,
    config: ModelConfig,
    report: Report,
) -> bool:
    """Whether the Service asks for more than the maps could ever hold; counted, not expanded."""
    frontends = endpoints = 0
    for view in views:
        addresses = 1 + len(view.external_ips) + len(view.load_balancer_ips)
        frontends += len(ports) * addresses + sum(1 for port in ports if port.node_port)
        for port in ports:
            endpoints += count_endpoints(index, view.family, port.name, port.protocol)
    for found, most, what in (
        (frontends, config.max_frontends, "ports times addresses"),
        (endpoints, config.max_endpoints, "ports times endpoints"),
    ):
        if found > most:
            report.add("spec.ports", f"more than {most} {what}; Service not served")
    return frontends > config.max_frontends or endpoints > config.max_endpoints


def _desired(
    service: Service,
    view: FamilyView,
    port: Port,
    endpoints: Endpoints,
    facts: NodeFacts,
    config: ModelConfig,
) -> Desired:
    in_use = sets_in_use(service, view, port)
    if not in_use.local and _is_plain(endpoints):
        windows = _plain_windows(endpoints, port.protocol, facts, config)
        has_endpoints = bool(endpoints)
    else:
        windows, has_endpoints = _windows(endpoints, port.protocol, in_use, facts, config)
    before_local, both, local_only, _ = map(len, windows)
    local_count = both + local_only
    return Desired(
        frontends_of(view, port),
        tuple(chain.from_iterable(windows)),
        cluster_count=before_local + both,
        local_first=before_local if local_count else 0,
        local_count=local_count,
        affinity_timeout_s=affinity_timeout_s(service),
        flags=_HAS_ENDPOINTS if has_endpoints else 0,
        source_ranges=allowed_sources(view, facts),
    )


def _policy_flags(service: Service, consistent: bool) -> int:
    """What the record says of a Service whatever its endpoints."""
    flags = _CONSISTENT if consistent else 0
    if internal_local(service):
        flags |= _INTERNAL_LOCAL
    if external_local(service):
        flags |= _EXTERNAL_LOCAL
    return flags


_Windows = tuple[list[BackendSpec], list[BackendSpec], list[BackendSpec], list[BackendSpec]]
"""The extent, cut into the four windows of ``topology.Window``."""


def _windows(
    endpoints: Endpoints, protocol: int, in_use: SetsInUse, facts: NodeFacts, config: ModelConfig
) -> tuple[_Windows, bool]:
    """The backends of each window, sorted, so that the same endpoints give the same extent [B9]."""
    distinct = set(endpoints.values())
    sets = choose_sets(distinct, in_use, config.node_name, facts.zone)
    # Few distinct traits stand for many endpoints: all but the address is settled per traits.
    places = {
        traits: (sets.window(traits), _LOCAL if is_local(traits, config.node_name) else 0)
        for traits in distinct
    }
    windows: _Windows = ([], [], [], [])
    for (address, port), traits in sorted(endpoints.items()):
        window, flags = places[traits]
        if window is not None:
            if address in facts.local:
                flags |= _HOST
            windows[window].append(BackendSpec(address, port, protocol, flags))
    return windows, sets.has_endpoints


def _is_plain(endpoints: Endpoints) -> bool:
    """Whether all endpoints are ready and none has a hint, as in nearly every Service.

    Then the cluster set is all of them, in one window [C3, D4].
    """
    for traits in endpoints.values():
        if not traits.ready or traits.hint_zones or traits.hint_nodes:
            return False
    return True


def _plain_windows(
    endpoints: Endpoints, protocol: int, facts: NodeFacts, config: ModelConfig
) -> _Windows:
    """What ``_windows`` gives for plain endpoints and the cluster set alone, but sooner."""
    # One expression: it runs for nearly every endpoint of the cluster.
    name, own = config.node_name, facts.local
    local = _LOCAL if name else 0
    backends = [
        BackendSpec(
            address,
            port,
            protocol,
            (local if traits.node == name else 0) | (_HOST if address in own else 0),
        )
        for (address, port), traits in sorted(endpoints.items())
    ]
    return backends, [], [], []
