# SPDX-License-Identifier: Apache-2.0
"""From a Service and its EndpointSlices to what should be programmed: the semantics of a Service.

This is the function to read beside the Kubernetes documentation. It is pure, looks at one Service
only, and knows nothing of what was programmed before or of other Services; ``cluster`` calls it for
what changed, and ``claims`` settles what several Services want.
"""

from __future__ import annotations

from typing import Iterable, Sequence

from kubeproxy_bpf.api.objects import EndpointSlice, EndpointTraits, Service
from kubeproxy_bpf.model.endpoints import Endpoints, endpoints_of
from kubeproxy_bpf.model.facts import ModelConfig, NodeFacts
from kubeproxy_bpf.model.frontends import frontends_of
from kubeproxy_bpf.model.problems import Report
from kubeproxy_bpf.model.services import (
    FamilyView,
    Port,
    affinity_timeout_s,
    external_local,
    family_views,
    internal_local,
    is_served,
    ports_of,
    sets_in_use,
)
from kubeproxy_bpf.model.topology import Sets, Window, choose_sets, is_local
from kubeproxy_bpf.model.types import BackendSpec, Desired, Problem, ServicePortId
from kubeproxy_bpf.plan.records import BackendFlags, RecordFlags

# Plain integers: the arithmetic of IntFlag costs more than all the rest for an endpoint.
_LOCAL = int(BackendFlags.LOCAL)
_HOST = int(BackendFlags.HOST)
_INTERNAL_LOCAL = int(RecordFlags.INTERNAL_LOCAL)
_EXTERNAL_LOCAL = int(RecordFlags.EXTERNAL_LOCAL)
_HAS_ENDPOINTS = int(RecordFlags.HAS_ENDPOINTS)

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
    valid_ports = ports_of(service, report)
    for view in family_views(service, config, report):
        for port in valid_ports:
            port_id = ServicePortId(
                "service",
                service.namespace,
                service.name,
                port.name,
                port.protocol,
                int(view.family),
            )
            endpoints = endpoints_of(slices, view.family, port.name, port.protocol)
            ports[port_id] = _desired(service, view, port, endpoints, facts, config)
    return ports, report.problems


def _desired(
    service: Service,
    view: FamilyView,
    port: Port,
    endpoints: Endpoints,
    facts: NodeFacts,
    config: ModelConfig,
) -> Desired:
    distinct = set(endpoints.values())
    in_use = sets_in_use(service, view, port)
    sets = choose_sets(distinct, in_use, config.node_name, facts.zone)
    places = _places(distinct, sets, config.node_name)
    extent = _extent(endpoints, places, port.protocol, facts.local)
    before_local, both, local_only, _ = map(len, extent)
    local_count = both + local_only
    return Desired(
        frontends=frontends_of(view, port),
        backends=tuple(backend for window in extent for backend in window),
        cluster_count=before_local + both,
        local_first=before_local if local_count else 0,
        local_count=local_count,
        affinity_timeout_s=affinity_timeout_s(service),
        flags=_record_flags(service, sets),
    )


def _record_flags(service: Service, sets: Sets) -> int:
    flags = _HAS_ENDPOINTS if sets.has_endpoints else 0
    if internal_local(service):
        flags |= _INTERNAL_LOCAL
    if external_local(service):
        flags |= _EXTERNAL_LOCAL
    return flags


_Places = dict[EndpointTraits, tuple[Window | None, int]]


def _places(distinct: Iterable[EndpointTraits], sets: Sets, node_name: str) -> _Places:
    """Window and backend flags by traits."""
    return {
        traits: (sets.window(traits), _LOCAL if is_local(traits, node_name) else 0)
        for traits in distinct
    }


def _extent(
    endpoints: Endpoints, places: _Places, protocol: int, own: frozenset[bytes]
) -> tuple[list[BackendSpec], ...]:
    """The backends of each window, sorted, so that the same endpoints give the same extent [B9]."""
    windows: tuple[list[BackendSpec], ...] = ([], [], [], [])
    for address, port in sorted(endpoints):
        window, flags = places[endpoints[address, port]]
        if window is None:
            continue
        if address in own:
            flags |= _HOST
        windows[window].append(BackendSpec(address, port, protocol, flags))
    return windows
