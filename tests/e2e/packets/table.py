# SPDX-License-Identifier: Apache-2.0
"""The table of packet flows: who sends packets where, who may answer, and whom the backend sees.

Data only; ``test_rows`` runs every row over real sockets, each in TCP and UDP and in IPv4 and IPv6.
None of the clients passes a socket hook, unless its place says so. Row numbers are those of the
table of Service semantics.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple


class Place(Enum):
    """Who sends: the namespace, and whether its processes pass the socket hooks."""

    CLIENT = "client"
    """Outside of the cluster."""
    HOST = "host"
    """A process of node1 that no hook sees, as a kernel's own socket."""
    POD = "pod"
    """A pod of node1 that no hook sees, as a virtual machine or an opted-out pod."""
    SERVER = "server"
    """The same in web-1, which is a backend itself."""
    HOOKED_HOST = "hooked host"
    HOOKED_POD = "hooked pod"


class Via(Enum):
    """The kind of address that is dialled."""

    CLUSTER_IP = "cluster IP"
    EXTERNAL_IP = "external IP"
    LOAD_BALANCER = "load balancer"
    NODE1 = "node1"
    """The node port on that node's own address."""
    NODE2 = "node2"
    HOST_PORT = "host port"


class Outcome(Enum):
    REFUSED = "refused"
    SILENCE = "silence"


class Source(Enum):
    """The address that the backend sees as its peer."""

    KEPT = "kept"
    MASQUERADED = "masqueraded"
    """An address of the node that was asked."""
    LOCAL_KEPT = "local kept"
    """Kept for backends on the node that was asked if the proxy preserves local sources."""


class Service(NamedTuple):
    """A Service of the world; its node port and its external addresses follow from its place."""

    name: str
    backends: tuple[str, ...]
    """Pods, or nodes for backends in the host's network."""
    spec: dict[str, Any]


class Row(NamedTuple):
    rule: str
    place: Place
    service: str
    via: Via
    expected: tuple[str, ...] | Outcome
    """All backends that may answer, or what happens instead."""
    source: Source = Source.LOCAL_KEPT
    port: int = 0
    """Instead of the Service's own."""

    def __str__(self) -> str:
        rule = self.rule.partition(":")[0].replace(" ", "+")
        port = f"-{self.port}" if self.port else ""
        return f"{rule}-{self.place.value}-{self.service}-{self.via.value}{port}".replace(" ", "_")


ALL = ("web-1", "web-2", "web-3", "web-4")
ON_NODE1 = ("web-1", "web-3")
ON_HOSTS = ("node1", "node2")
REMOTE = ("web-2", "web-4")

SERVICES = (
    Service("all", ALL, {}),
    Service("local", ON_NODE1, {"externalTrafficPolicy": "Local"}),
    Service("nobody", (), {}),
    Service("internal", ON_NODE1, {"internalTrafficPolicy": "Local"}),
    Service("away", REMOTE, {"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}),
    Service("hosts", ON_HOSTS, {}),
    Service("host-local", ON_HOSTS, {"externalTrafficPolicy": "Local"}),
    Service("itself", ("web-1",), {}),
    Service("remote", REMOTE, {}),
    Service("sticky", ALL, {"sessionAffinity": "ClientIP"}),
    # The outside client is in these ranges ("{v4}", "{v6}" stand for it), and in none of those.
    Service("open", ALL, {"loadBalancerSourceRanges": ["{v4}/32", "{v6}/128"]}),
    Service("closed", ALL, {"loadBalancerSourceRanges": ["192.0.2.0/24", "2001:db8:2::/48"]}),
)

CLIENT, HOST, POD, SERVER = Place.CLIENT, Place.HOST, Place.POD, Place.SERVER
HOOKED_HOST, HOOKED_POD = Place.HOOKED_HOST, Place.HOOKED_POD
CLUSTER_IP, EXTERNAL_IP, LOAD_BALANCER = Via.CLUSTER_IP, Via.EXTERNAL_IP, Via.LOAD_BALANCER
NODE1, NODE2, HOST_PORT = Via.NODE1, Via.NODE2, Via.HOST_PORT
REFUSED, SILENCE = Outcome.REFUSED, Outcome.SILENCE
KEPT, MASQUERADED = Source.KEPT, Source.MASQUERADED

FROM_OUTSIDE = (
    Row("C13 E4", CLIENT, "all", NODE1, ALL),
    Row("C13 E4", CLIENT, "all", NODE2, ALL),
    Row("C13 F1", CLIENT, "all", LOAD_BALANCER, ALL),
    Row("C13 F4", CLIENT, "all", EXTERNAL_IP, ALL),
    Row("C14 E3", CLIENT, "all", CLUSTER_IP, ALL),
    Row("E4: all are on the other node", CLIENT, "remote", NODE1, REMOTE, MASQUERADED),
    Row("E7", CLIENT, "local", NODE1, ON_NODE1, KEPT),
    Row("E7", CLIENT, "local", LOAD_BALANCER, ON_NODE1, KEPT),
    Row("E7", CLIENT, "local", EXTERNAL_IP, ON_NODE1, KEPT),
    Row("C12: no endpoint on the node that is asked", CLIENT, "local", NODE2, SILENCE),
    Row("C12", CLIENT, "away", LOAD_BALANCER, SILENCE),
    Row("C14: the external policy does not matter", CLIENT, "local", CLUSTER_IP, ON_NODE1),
    Row("C2", CLIENT, "internal", CLUSTER_IP, ON_NODE1),
    Row("C11", CLIENT, "away", CLUSTER_IP, SILENCE),
    Row("C10 F16", CLIENT, "nobody", NODE1, REFUSED),
    Row("C10 F16", CLIENT, "nobody", NODE2, REFUSED),
    Row("C10", CLIENT, "nobody", LOAD_BALANCER, REFUSED),
    Row("C10", CLIENT, "nobody", EXTERNAL_IP, REFUSED),
    Row("C10", CLIENT, "nobody", CLUSTER_IP, REFUSED),
    Row("H1: a port that the Service lacks", CLIENT, "all", CLUSTER_IP, REFUSED, port=81),
    Row("E9: a node's port of nobody", CLIENT, "all", NODE1, REFUSED, port=9),
    Row("E4: on the host's network", CLIENT, "hosts", NODE1, ON_HOSTS),
    Row("E4: on the host's network", CLIENT, "hosts", LOAD_BALANCER, ON_HOSTS),
    Row("E7: on the host's network", CLIENT, "host-local", NODE1, ("node1",), KEPT),
    Row("E7: on the host's network", CLIENT, "host-local", NODE2, ("node2",), KEPT),
    Row("E7: on the host's network", CLIENT, "host-local", EXTERNAL_IP, ("node1",), KEPT),
    Row("F5", CLIENT, "open", LOAD_BALANCER, ALL),
    Row("F6", CLIENT, "closed", LOAD_BALANCER, SILENCE),
    Row("F5: ranges are of load balancers alone", CLIENT, "closed", NODE1, ALL),
    Row("F5: ranges are of load balancers alone", CLIENT, "closed", EXTERNAL_IP, ALL),
    Row("L2", CLIENT, "host-port", HOST_PORT, ("web-1",), KEPT),
)

FROM_HOST = (
    Row("E2 K19", HOST, "all", CLUSTER_IP, ALL, MASQUERADED),
    Row("E4 F20", HOST, "all", LOAD_BALANCER, ALL, MASQUERADED),
    Row("E4 F20", HOST, "all", EXTERNAL_IP, ALL, MASQUERADED),
    Row("E4", HOST, "all", NODE1, ALL, MASQUERADED),
    Row("E4: of the other node", HOST, "all", NODE2, ALL),
    Row("E6", HOST, "local", LOAD_BALANCER, ON_NODE1, MASQUERADED),
    Row("E6: no endpoint here", HOST, "away", LOAD_BALANCER, REMOTE, MASQUERADED),
    Row("E6: no endpoint here", HOST, "away", NODE1, REMOTE, MASQUERADED),
    Row("C11", HOST, "away", CLUSTER_IP, SILENCE),
    Row("C10", HOST, "nobody", CLUSTER_IP, REFUSED),
    Row("C10", HOST, "nobody", LOAD_BALANCER, REFUSED),
    Row("C10 F16", HOST, "nobody", NODE1, REFUSED),
    Row("H1", HOST, "all", CLUSTER_IP, REFUSED, port=81),
    Row("K19: on the host's network", HOST, "hosts", CLUSTER_IP, ON_HOSTS, MASQUERADED),
    Row("F6: also for the host itself", HOST, "closed", LOAD_BALANCER, SILENCE),
    Row("F6: also for the host itself", HOOKED_HOST, "closed", LOAD_BALANCER, SILENCE),
)

FROM_PODS = (
    Row("E1", POD, "all", CLUSTER_IP, ALL, KEPT),
    Row("C2 E1", POD, "internal", CLUSTER_IP, ON_NODE1, KEPT),
    Row("E4", POD, "all", LOAD_BALANCER, ALL),
    Row("E4", POD, "all", EXTERNAL_IP, ALL),
    Row("E4", POD, "all", NODE1, ALL),
    Row("E4: of the other node", POD, "all", NODE2, ALL),
    Row("E5", POD, "local", NODE1, ON_NODE1, KEPT),
    Row("E5: no endpoint here", POD, "away", LOAD_BALANCER, REMOTE, KEPT),
    Row("C11", POD, "away", CLUSTER_IP, SILENCE),
    Row("C10", POD, "nobody", CLUSTER_IP, REFUSED),
    Row("C10", POD, "nobody", LOAD_BALANCER, REFUSED),
    Row("C10 F16", POD, "nobody", NODE1, REFUSED),
    Row("H1", POD, "all", CLUSTER_IP, REFUSED, port=81),
    Row("K19: on the host's network", POD, "hosts", CLUSTER_IP, ON_HOSTS, KEPT),
    Row("F6", POD, "closed", LOAD_BALANCER, SILENCE),
    Row("F6", HOOKED_POD, "closed", LOAD_BALANCER, SILENCE),
    Row("E8", SERVER, "itself", CLUSTER_IP, ("web-1",), MASQUERADED),
    Row("E8", SERVER, "itself", NODE1, ("web-1",), MASQUERADED),
    Row("E8", SERVER, "itself", LOAD_BALANCER, ("web-1",), MASQUERADED),
    Row("L2", POD, "host-port", HOST_PORT, ("web-1",), KEPT),
)

ROWS = FROM_OUTSIDE + FROM_HOST + FROM_PODS
SILENT = [row for row in ROWS if row.expected is SILENCE]
"""Whether nothing comes takes its time to see."""
