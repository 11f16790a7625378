# SPDX-License-Identifier: Apache-2.0
"""What the model has to know besides API objects: its configuration, and facts of this node.

Values only. ``node.addresses`` makes NodeAddresses from the devices, ``app`` makes the
configuration, ``cluster`` keeps the facts up to date.
"""

from __future__ import annotations

from typing import NamedTuple

from kubeproxy_bpf.model.types import Family, Protocol

PortNumber = tuple[int, int]
"""A port and its IP protocol."""

KUBELET_PORTS = frozenset((number, int(Protocol.TCP)) for number in (10248, 10250, 10255))
"""Its health check, its API, its API without authentication."""


MOST_FRONTENDS, MOST_ENDPOINTS = 65536, 524288
"""Of one Service, that are expanded however small the maps are: what finds no room there is named
port by port."""


class ModelConfig(NamedTuple):
    """What the operator decided; fixed for the run."""

    node_name: str
    """Empty: no endpoint is local [B4]."""
    families: tuple[Family, ...] = (Family.IPV4, Family.IPV6)
    """Those that the node supports [I3, I4]."""
    allow_external_ips: bool = True
    """Feature gate AllowServiceExternalIPs [F4]."""
    consistent_default: bool = False
    """The client decides the backend of every Service whose annotation does not say otherwise."""
    max_frontends: int = MOST_FRONTENDS
    """A Service that asks for more is refused before it is expanded: it would not fit, and the
    product of its ports and addresses may be larger than all memory."""
    max_endpoints: int = MOST_ENDPOINTS
    """The same for the product of its ports and its endpoints' addresses."""
    protected_ports: frozenset[PortNumber] = KUBELET_PORTS
    """What no Service gets on the node's own addresses: the ports of those who run the node."""


class NodeAddresses(NamedTuple):
    """The addresses of this node, as far as it answers on them."""

    local: frozenset[bytes] = frozenset()
    """All of them. 127.0.0.1 stands for all of 127/8."""
    node_port: frozenset[bytes] = frozenset()
    """Those of ``local`` that serve node ports [F12-F17]."""


class NodeFacts(NamedTuple):
    """What the compilation of a Service reads about this node; changes at run time."""

    zone: str = ""
    """Label topology.kubernetes.io/zone [D1, D7]."""
    local: frozenset[bytes] = frozenset()
    """The node's own addresses: a backend there is reached by loopback sources too."""
    node_ips: frozenset[bytes] = frozenset()
    """One of each family, by which the cluster knows the node [K3, F7]."""
    api_server_ports: frozenset[PortNumber] = frozenset()
    """Those of an API server on this node."""
    health_check_ports: frozenset[PortNumber] = frozenset()
    """Those on which we answer for Services of load balancers (healthCheckNodePort)."""
