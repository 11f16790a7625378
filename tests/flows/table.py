# SPDX-License-Identifier: Apache-2.0
"""One table of flows: who connects where, and who may answer.

Data only, for several executors: ``test_trace`` follows the planned maps in memory, the end-to-end
tests open real sockets. The cluster behind it is ``world.yaml`` beside this file, in the form of
tests/golden/scenario.py. Row numbers are those of the table of Service semantics.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import NamedTuple

WORLD = Path(__file__).with_name("world.yaml")


class Client(Enum):
    """Who opens the socket."""

    POD = "pod"
    """A pod of node-a, without a local detector in the family."""
    DETECTED_POD = "detected-pod"
    """A pod of node-a that a local detector knows as such."""
    HOST = "host"
    """A process in node-a's own network namespace."""
    HOST_LOOPBACK = "host-loopback"
    """The same, with its socket bound to 127.0.0.1."""


class Outcome(Enum):
    """What happens where no backend may answer."""

    REFUSED = "connection refused"
    UNREACHABLE = "no route to host"
    LEFT_ALONE = "not translated: goes where the address leads"


class Flow(NamedTuple):
    rule: str
    client: Client
    protocol: str
    address: str
    port: int
    expected: frozenset[str] | Outcome
    """The addresses of all backends that may be chosen ("address:port",
    IPv6 "address port"), or what happens instead."""

    def __str__(self) -> str:
        return f"{self.client.value}-{self.protocol}-{self.address}-{self.port}"


def _one_of(*backends: str) -> frozenset[str]:
    return frozenset(backends)


POD, DETECTED, HOST = Client.POD, Client.DETECTED_POD, Client.HOST
LOOPBACK = Client.HOST_LOOPBACK
REFUSED, UNREACHABLE, LEFT_ALONE = Outcome

LOCAL, REMOTE = _one_of("10.244.1.10:8080"), _one_of("10.244.2.10:8080")
ALL = LOCAL | REMOTE
ALL_6 = _one_of("fd00:10:244:1::a 8080", "fd00:10:244:2::a 8080")
DNS = _one_of("10.244.1.10:5353", "10.244.2.10:5353")
ON_HOST = _one_of("192.168.0.1:8080")

FLOWS = (
    # Cluster IPs
    Flow("C14", POD, "TCP", "10.96.0.1", 80, ALL),
    Flow("C14 K19", HOST, "TCP", "10.96.0.1", 80, ALL),
    Flow("C14 I5", POD, "TCP", "fd00:10:96::1", 80, ALL_6),
    Flow("C14 I5", HOST, "TCP", "fd00:10:96::1", 80, ALL_6),
    Flow("A10 I1", POD, "UDP", "10.96.0.1", 53, DNS),
    Flow("I1", POD, "SCTP", "10.96.0.1", 36412, _one_of("10.244.1.10:36412", "10.244.2.10:36412")),
    Flow("H1", POD, "TCP", "10.96.0.1", 81, REFUSED),
    Flow("H1", POD, "TCP", "10.96.0.1", 53, REFUSED),
    Flow("H1", HOST, "UDP", "10.96.0.1", 80, REFUSED),
    Flow(
        "A10: a node port is not a port of the cluster IP", POD, "TCP", "10.96.0.1", 30080, REFUSED
    ),
    Flow("H1", POD, "TCP", "fd00:10:96::1", 81, REFUSED),
    Flow("H2: an address that no Service has", POD, "TCP", "10.96.0.99", 80, LEFT_ALONE),
    Flow("E9", POD, "TCP", "10.244.2.10", 8080, LEFT_ALONE),
    Flow("C14: the external policy does not matter", POD, "TCP", "10.96.0.2", 80, ALL),
    Flow("C2", POD, "TCP", "10.96.0.4", 80, LOCAL),
    Flow("C2", HOST, "TCP", "10.96.0.4", 80, LOCAL),
    Flow("C2: a detector does not matter", DETECTED, "TCP", "10.96.0.4", 80, LOCAL),
    Flow("C11", POD, "TCP", "10.96.0.5", 80, UNREACHABLE),
    Flow("C11", HOST, "TCP", "10.96.0.5", 80, UNREACHABLE),
    Flow("C10", POD, "TCP", "10.96.0.6", 80, REFUSED),
    Flow("C10", HOST, "UDP", "10.96.0.6", 53, REFUSED),
    Flow("C10", POD, "TCP", "fd00:10:96::6", 80, REFUSED),
    Flow("C10: refused, not dropped, since nobody has any", POD, "TCP", "10.96.0.7", 80, REFUSED),
    Flow("C3 C6", POD, "TCP", "10.96.0.8", 80, REMOTE),
    Flow("C5", POD, "TCP", "10.96.0.9", 80, LOCAL),
    Flow("D3", POD, "TCP", "10.96.0.12", 80, REMOTE),
    Flow("H6", POD, "UDP", "10.96.0.30", 53, LEFT_ALONE),
    Flow("H6", HOST, "TCP", "10.96.0.30", 8080, LEFT_ALONE),
    # External IPs and load balancers
    Flow("F4", POD, "TCP", "203.0.113.1", 80, ALL),
    Flow("F4 I6", HOST, "TCP", "2001:db8::1", 80, ALL_6),
    Flow("F4", POD, "UDP", "203.0.113.1", 53, DNS),
    Flow("H5", POD, "TCP", "203.0.113.1", 81, LEFT_ALONE),
    Flow("H5: no node address", POD, "TCP", "203.0.113.1", 30080, LEFT_ALONE),
    Flow("F1", POD, "TCP", "198.51.100.1", 80, ALL),
    Flow("F1 F20", HOST, "TCP", "198.51.100.1", 80, ALL),
    Flow("H5", HOST, "TCP", "198.51.100.1", 22, LEFT_ALONE),
    Flow("F2", POD, "TCP", "198.51.100.91", 80, LEFT_ALONE),
    Flow("E10", POD, "TCP", "198.51.100.2", 80, LOCAL),
    Flow("E5", DETECTED, "TCP", "198.51.100.2", 80, ALL),
    Flow("E6: also when the VIP is on this node", HOST, "TCP", "198.51.100.2", 80, ALL),
    Flow("C12", POD, "TCP", "203.0.113.3", 80, UNREACHABLE),
    Flow("C12 E5", DETECTED, "TCP", "203.0.113.3", 80, REMOTE),
    Flow("C12 E6", HOST, "TCP", "203.0.113.3", 80, REMOTE),
    Flow("C10", POD, "TCP", "203.0.113.6", 80, REFUSED),
    Flow("F5: the source is known to the packet path", POD, "TCP", "198.51.100.10", 80, LEFT_ALONE),
    Flow("F5", POD, "TCP", "203.0.113.10", 80, REMOTE),
    Flow("F5", POD, "TCP", "10.96.0.10", 80, REMOTE),
    Flow("F5", HOST, "TCP", "192.168.0.1", 30090, REMOTE),
    # Node ports
    Flow("C13 L5: a host port has the number too", POD, "TCP", "192.168.0.1", 30080, ALL),
    Flow("C13", HOST, "TCP", "192.168.0.1", 30080, ALL),
    Flow("C13", HOST, "TCP", "fd00:192:168::1", 30080, ALL_6),
    Flow("F18", POD, "UDP", "192.168.0.1", 30053, DNS),
    Flow("F18", POD, "TCP", "192.168.0.1", 30053, LEFT_ALONE),
    Flow("F15", HOST, "TCP", "127.0.0.1", 30080, ALL),
    Flow("F15: all of 127/8", HOST, "TCP", "127.1.2.3", 30080, ALL),
    Flow("F15", HOST, "TCP", "::1", 30080, ALL_6),
    Flow("F15: a pod's loopback is its own", POD, "TCP", "127.0.0.1", 30080, LEFT_ALONE),
    Flow("F12: another node", POD, "TCP", "192.168.0.2", 30080, LEFT_ALONE),
    Flow("K19: a port without a Service", HOST, "TCP", "192.168.0.1", 22, LEFT_ALONE),
    Flow("E10", POD, "TCP", "192.168.0.1", 30081, LOCAL),
    Flow("E5", DETECTED, "TCP", "192.168.0.1", 30081, ALL),
    Flow("E6", HOST, "TCP", "127.0.0.1", 30081, ALL),
    Flow("C12", POD, "TCP", "192.168.0.1", 30082, UNREACHABLE),
    Flow("C12 E6", HOST, "TCP", "192.168.0.1", 30082, REMOTE),
    Flow("C15: the internal policy does not matter", POD, "TCP", "192.168.0.1", 30084, ALL),
    Flow("C3 C5", HOST, "TCP", "192.168.0.1", 30089, REMOTE),
    Flow("F16", POD, "TCP", "192.168.0.1", 30086, REFUSED),
    Flow("F16", POD, "TCP", "192.168.0.1", 30087, REFUSED),
    Flow("F17", POD, "TCP", "192.168.1.1", 30081, LEFT_ALONE),
    # Sources bound to loopback reach only what runs on the node's own addresses
    Flow("section 5", LOOPBACK, "TCP", "10.96.0.13", 80, ON_HOST),
    Flow("section 5", LOOPBACK, "TCP", "127.0.0.1", 30093, ON_HOST),
    Flow("section 5", LOOPBACK, "TCP", "10.96.0.1", 80, LEFT_ALONE),
    Flow("section 5", HOST, "TCP", "10.96.0.13", 80, ON_HOST | REMOTE),
    # Host ports
    Flow("L2", POD, "TCP", "192.168.0.1", 8000, _one_of("10.244.1.21:8080")),
    Flow(
        "L2: not bound to nodePortAddresses",
        HOST,
        "TCP",
        "192.168.1.1",
        8000,
        _one_of("10.244.1.21:8080"),
    ),
    Flow("L2", HOST, "TCP", "127.0.0.1", 8000, _one_of("10.244.1.21:8080")),
    Flow("L2", HOST, "TCP", "fd00:192:168::1", 8000, _one_of("fd00:10:244:1::15 8080")),
    Flow("L2", POD, "UDP", "192.168.0.1", 8000, LEFT_ALONE),
    Flow("L4", HOST, "TCP", "127.0.0.1", 54323, _one_of("10.244.1.22:8080")),
    Flow("L4", HOST, "TCP", "192.168.0.1", 54323, _one_of("10.244.1.23:8080")),
    Flow("L4", HOST, "UDP", "192.168.0.1", 54323, _one_of("10.244.1.24:5353")),
    Flow("L4", HOST, "TCP", "192.168.1.1", 54323, LEFT_ALONE),
)
