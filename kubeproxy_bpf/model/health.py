# SPDX-License-Identifier: Apache-2.0
"""Health checks of load balancers: how many endpoints of a Service this node has.

An outside load balancer asks each node's healthCheckNodePort whether the node has local endpoints
of a Service with externalTrafficPolicy Local. Here are the ports and the counts; the server that
answers is elsewhere. Called by ``cluster``.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

from kubeproxy_bpf.api.objects import EndpointSlice, ObjectKey, Service
from kubeproxy_bpf.model.endpoints import endpoints_of, index_ports
from kubeproxy_bpf.model.facts import ModelConfig
from kubeproxy_bpf.model.problems import Report
from kubeproxy_bpf.model.services import family_views, is_served, ports_of
from kubeproxy_bpf.model.topology import is_local
from kubeproxy_bpf.model.types import Family, Problem


class HealthCheck(NamedTuple):
    """A port to listen on in one family, and the count to answer with."""

    service: ObjectKey
    family: Family
    port: int
    local_endpoints: int
    """Distinct addresses of local ready endpoints, over all ports of the Service."""


def wants_health_check(service: Service) -> bool:
    return (
        service.type == "LoadBalancer" and service.external_policy == "Local" and is_served(service)
    )


def health_checks_of(
    service: Service, slices: Sequence[EndpointSlice], config: ModelConfig
) -> tuple[tuple[HealthCheck, ...], tuple[Problem, ...]]:
    """One for each family in which the Service has a cluster IP."""
    if not wants_health_check(service):
        return (), ()
    report = Report("Service", service.namespace, service.name)
    number = service.health_check_node_port
    if not 0 < number <= 65535:
        report.add("spec.healthCheckNodePort", f"{number} is no port; no health check served")
        return (), report.problems
    # What is wrong with the rest of the Service is reported where the rest is compiled.
    unreported = Report("Service", service.namespace, service.name)
    ports = ports_of(service, unreported)
    index = index_ports(slices)
    checks = []
    for view in family_views(service, config, unreported):
        local: set[bytes] = set()
        for port in ports:
            endpoints = endpoints_of(index, view.family, port.name, port.protocol)
            local.update(
                address
                for (address, _), traits in endpoints.items()
                if traits.ready and is_local(traits, config.node_name)
            )
        checks.append(HealthCheck(service.key, view.family, number, len(local)))
    return tuple(checks), ()
