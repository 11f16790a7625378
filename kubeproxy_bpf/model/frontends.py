# SPDX-License-Identifier: Apache-2.0
"""Where a service port is reached: its frontends in one family [F1, F4, F11, F18, I1].

Which of two service ports gets a frontend that both want is not decided here but in ``claims``.
Called by ``desired`` and ``hostports``.
"""

from __future__ import annotations

from kubeproxy_bpf.model.addresses import WILDCARD
from kubeproxy_bpf.model.services import FamilyView, Port
from kubeproxy_bpf.model.types import Family, FrontendSpec
from kubeproxy_bpf.plan.records import FrontendFlags, FrontendKind

_INTERNAL = 0
_EXTERNAL = int(FrontendFlags.EXTERNAL)
_FILTERED = int(FrontendFlags.EXTERNAL | FrontendFlags.SOURCE_RANGES)


def frontends_of(view: FamilyView, port: Port) -> tuple[FrontendSpec, ...]:
    """All frontends of a port, each address once.

    The order is the precedence when a Service names one address twice: as a cluster IP, as a
    load-balancer address, as an external IP. The load balancer stands before the external IP, so
    that naming the address there too does not lift its source ranges.
    """
    number, protocol = port.port, port.protocol
    cluster_ip = FrontendSpec(view.cluster_ip, number, protocol, FrontendKind.CLUSTER_IP, _INTERNAL)
    if not (view.load_balancer_ips or view.external_ips or port.node_port):
        return (cluster_ip,)
    found = {view.cluster_ip: cluster_ip}
    lb_flags = _FILTERED if view.source_ranges else _EXTERNAL
    for address in view.load_balancer_ips:
        found.setdefault(
            address,
            FrontendSpec(address, number, protocol, FrontendKind.LOAD_BALANCER, lb_flags),
        )
    for address in view.external_ips:
        found.setdefault(
            address,
            FrontendSpec(address, number, protocol, FrontendKind.EXTERNAL_IP, _EXTERNAL),
        )
    if port.node_port:
        return (*found.values(), node_port_frontend(view.family, port))
    return tuple(found.values())


def node_port_frontend(family: Family, port: Port) -> FrontendSpec:
    """Stands once, under the wildcard address; ``vips`` says on which addresses it applies."""
    return FrontendSpec(
        WILDCARD[family], port.node_port, port.protocol, FrontendKind.NODE_PORT, _EXTERNAL
    )


def host_port_frontend(address: bytes, port: int, protocol: int) -> FrontendSpec:
    """No policy applies to a host port: it has the one endpoint, on this node."""
    return FrontendSpec(address, port, protocol, FrontendKind.HOST_PORT, _INTERNAL)
