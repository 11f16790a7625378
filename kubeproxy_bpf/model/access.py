# SPDX-License-Identifier: Apache-2.0
"""What keeps clients out: source ranges of a load balancer, and ports that the node needs itself.

[F5-F9]. A node's own address may be an external or load-balancer address of a Service (k3s
ServiceLB makes it one), for exactly the Service's ports, but not for those by which the node is
run: whoever may write a Service must not be able to take over the connections of the kubelet, of
the API server, or of a load balancer that asks how somebody else's Service is. Called by
``desired`` and ``cluster``.
"""

from __future__ import annotations

from typing import Iterable

from kubeproxy_bpf.api.objects import EndpointSlice
from kubeproxy_bpf.model.addresses import format_address
from kubeproxy_bpf.model.facts import ModelConfig, NodeFacts, PortNumber
from kubeproxy_bpf.model.problems import Report
from kubeproxy_bpf.model.services import PROTOCOLS, FamilyView, Port
from kubeproxy_bpf.model.types import Prefix, Protocol


def allowed_sources(view: FamilyView, facts: NodeFacts) -> tuple[Prefix, ...]:
    """Who may use the load-balancer addresses of a family; empty: everybody.

    A range with this node in it lets in the addresses themselves too, since that is what a host
    with a load-balancer address on a device talks to itself from [F7].
    """
    if not view.load_balancer_ips:
        return ()
    ranges = set(view.source_ranges)
    if any(ip in prefix for prefix in ranges for ip in facts.node_ips):
        ranges.update(Prefix(ip, 128) for ip in view.load_balancer_ips)
    return tuple(sorted(ranges))


def without_protected(
    view: FamilyView, port: Port, facts: NodeFacts, config: ModelConfig, report: Report
) -> FamilyView:
    """The view without the node's own addresses, if the port is one that the node needs itself."""
    number = port.port, port.protocol
    theirs = config.protected_ports, facts.api_server_ports, facts.health_check_ports
    if not any(number in ports for ports in theirs):
        return view
    what = f"{port.port}/{Protocol(port.protocol).name}"
    for field, addresses in (
        ("status.loadBalancer.ingress", view.load_balancer_ips),
        ("spec.externalIPs", view.external_ips),
    ):
        for address in facts.local.intersection(addresses):
            text = format_address(address)
            report.add(field, f"{text} is this node's own, which needs port {what}; not served")
    return view._replace(
        load_balancer_ips=tuple(a for a in view.load_balancer_ips if a not in facts.local),
        external_ips=tuple(a for a in view.external_ips if a not in facts.local),
    )


def api_server_ports(
    slices: Iterable[EndpointSlice], local: frozenset[bytes]
) -> frozenset[PortNumber]:
    """The ports on which an API server of this cluster listens on this node."""
    return frozenset(
        (port.port, PROTOCOLS[port.protocol])
        for each in slices
        if not local.isdisjoint(each.addresses)
        for port in each.ports
        if port.protocol in PROTOCOLS
    )
