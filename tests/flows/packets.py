# SPDX-License-Identifier: Apache-2.0
"""One table of flows that arrive as packets: who sends where, who may answer, and by which way.

Data only, for two executors: ``test_trace_packet`` follows the planned maps in memory, and
tests/bpf/packet sends packets through the programs. The cluster behind it is ``world.yaml``; row
numbers are those of the table of Service semantics. All of it with a local detector for
10.244.1.0/24 and fd00:10:244:1::/64, with 10.96.0.0/16 and fd00:10:96::/112 as ServiceCIDRs, and
without masqueradeAll, but where a row says otherwise.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Sequence

SERVICE_CIDRS = ("10.96.0.0/16", "fd00:10:96::/112")
DETECTED = ("10.244.1.0/24", "fd00:10:244:1::/64")


class Sender(Enum):
    """Who sends; the value is its addresses."""

    OUTSIDE = ("203.0.113.50", "2001:db8:86dd::50")
    """A client that a router leads to the node."""
    IN_RANGE = ("192.0.2.77",)
    """The same, in the source range of the Service that has one."""
    POD = ("10.244.1.20", "fd00:10:244:1::14")
    """A pod of node-a that the detector knows."""
    STRAY_POD = ("10.250.1.20", "fd00:10:250:1::14")
    """A pod of node-a, of a network that the detector does not know."""
    BACKEND = ("10.244.1.10", "fd00:10:244:1::a")
    """The pod that is a backend itself."""
    HOST = ("192.168.0.1", "fd00:192:168::1")
    """A socket of node-a that no hook saw: of the kernel, or of an opted-out process."""
    HOST_LOOPBACK = ("127.0.0.1", "::1")
    """The same, as its packets to loopback addresses are."""


class Way(Enum):
    """How the flow passes node-a."""

    DIRECT = "redirected, both ways"
    STACK = "through the stack, which sees client and backend"
    DSR = "unchanged to the backend's node"


class Outcome(Enum):
    """What happens where no backend may answer."""

    REJECTED = "RST or port unreachable"
    DROPPED = "silence"
    LEFT_ALONE = "goes where the address leads"


class Option(Enum):
    """Settings that differ from those above."""

    PRESERVE_SOURCE = "local backends see the client"
    MASQUERADE_ALL = "masqueradeAll"
    NO_DETECTOR = "detectLocalMode finds nothing"
    NO_POD_CIDR = "the detector goes by CIDR, and has none of the family"
    DSR = "remote backends answer the client themselves"
    REDIRECT_PEER = "straight into local pods, past netfilter"


class Target(NamedTuple):
    """One backend that may get the flow."""

    backend: str
    """"address:port", IPv6 "address port"."""
    way: Way
    masqueraded: bool


class PacketFlow(NamedTuple):
    rule: str
    sender: Sender
    protocol: str
    address: str
    port: int
    expected: frozenset[Target] | Outcome
    counter: str
    options: tuple[Option, ...] = ()

    def __str__(self) -> str:
        parts = [self.sender.name, self.protocol, self.address, str(self.port)]
        return "-".join(parts + [option.name for option in self.options]).lower()

    @property
    def source(self) -> str:
        """The sender's address of the right family."""
        return self.sender.value[":" in self.address]


def _stack(*backends: str, masqueraded: bool = False) -> frozenset[Target]:
    return frozenset(Target(b, Way.STACK, masqueraded) for b in backends)


def _hidden(*backends: str) -> frozenset[Target]:
    return _stack(*backends, masqueraded=True)


def _direct(*backends: str) -> frozenset[Target]:
    return frozenset(Target(b, Way.DIRECT, True) for b in backends)


def _peer(*backends: str) -> frozenset[Target]:
    return frozenset(Target(b, Way.DIRECT, False) for b in backends)


def _dsr(*backends: str) -> frozenset[Target]:
    return frozenset(Target(b, Way.DSR, False) for b in backends)


def _given(option: Option, rows: Sequence[PacketFlow]) -> tuple[PacketFlow, ...]:
    return tuple(row._replace(options=(*row.options, option)) for row in rows)


def _to(
    rule: str, sender: Sender, protocol: str, address: str, port: int, *targets: frozenset[Target]
) -> PacketFlow:
    """A flow that one of these targets gets."""
    together = frozenset(target for group in targets for target in group)
    counter = "DSR" if any(target.way is Way.DSR for target in together) else "FLOW_NEW"
    return PacketFlow(rule, sender, protocol, address, port, together, counter)


def _dropped(
    rule: str, sender: Sender, protocol: str, address: str, port: int, counter: str
) -> PacketFlow:
    return PacketFlow(rule, sender, protocol, address, port, Outcome.DROPPED, counter)


def _rejected(
    rule: str, sender: Sender, protocol: str, address: str, port: int, counter: str
) -> PacketFlow:
    return PacketFlow(rule, sender, protocol, address, port, Outcome.REJECTED, counter)


def _left(rule: str, sender: Sender, protocol: str, address: str, port: int) -> PacketFlow:
    return PacketFlow(rule, sender, protocol, address, port, Outcome.LEFT_ALONE, "NONE")


OUTSIDE, IN_RANGE, POD, STRAY, BACKEND, HOST, LOOPBACK = Sender
NODE, NODE_2, NODE_V6 = "192.168.0.1", "192.168.1.1", "fd00:192:168::1"
L, R = "10.244.1.10:8080", "10.244.2.10:8080"
L6, R6 = "fd00:10:244:1::a 8080", "fd00:10:244:2::a 8080"
DNS_L, DNS_R = "10.244.1.10:5353", "10.244.2.10:5353"
SIGNAL_L, SIGNAL_R = "10.244.1.10:36412", "10.244.2.10:36412"
ON_HOST = "192.168.0.1:8080"
EMPTY, NO_LOCAL = "PACKET_NO_ENDPOINTS", "PACKET_NO_LOCAL_ENDPOINT"
UNKNOWN, UNUSED = "PACKET_UNKNOWN_PORT", "PACKET_UNUSED_ADDRESS"
RANGES = "PACKET_SOURCE_RANGES"

NODE_PORTS = (
    _to("C13 E4", OUTSIDE, "TCP", NODE, 30080, _hidden(L), _direct(R)),
    _to("C13 E4", OUTSIDE, "TCP", NODE_V6, 30080, _hidden(L6), _direct(R6)),
    _to("C13 F18", OUTSIDE, "UDP", NODE, 30053, _hidden(DNS_L), _direct(DNS_R)),
    _left("F18", OUTSIDE, "TCP", NODE, 30053),
    _to("E4", POD, "TCP", NODE, 30080, _hidden(L, R)),
    _to("E4", POD, "TCP", NODE_V6, 30080, _hidden(L6, R6)),
    _to("E4", STRAY, "TCP", NODE, 30080, _hidden(L, R)),
    _to("E4 E8", BACKEND, "TCP", NODE, 30080, _hidden(L, R)),
    _to("E7", OUTSIDE, "TCP", NODE, 30081, _stack(L)),
    _to("E5", POD, "TCP", NODE, 30081, _stack(L, R)),
    _to("E10", STRAY, "TCP", NODE, 30081, _stack(L)),
    _to("E5 E8", BACKEND, "TCP", NODE, 30081, _hidden(L), _stack(R)),
    _dropped("C12", OUTSIDE, "TCP", NODE, 30082, NO_LOCAL),
    _to("C12 E5", POD, "TCP", NODE, 30082, _stack(R)),
    _to("C15: the internal policy", OUTSIDE, "TCP", NODE, 30084, _hidden(L), _direct(R)),
    _to("C3 C5", OUTSIDE, "TCP", NODE, 30089, _direct(R)),
    _rejected("F16", OUTSIDE, "TCP", NODE, 30086, EMPTY),
    _rejected("F16", POD, "TCP", NODE, 30087, EMPTY),
    _left("F17: not one of nodePortAddresses", OUTSIDE, "TCP", NODE_2, 30081),
    _left("F12", OUTSIDE, "TCP", "192.168.0.2", 30080),
    _left("F12: a port without a Service", OUTSIDE, "TCP", NODE, 22),
    _to(
        "section 6: the host's own namespace",
        OUTSIDE,
        "TCP",
        NODE,
        30093,
        _stack(ON_HOST),
        _direct(R),
    ),
    _to("E6 K19", HOST, "TCP", NODE, 30080, _direct(L, R)),
    _to("E6 K19", HOST, "TCP", NODE_V6, 30080, _direct(L6, R6)),
    _to("E6", HOST, "TCP", NODE, 30081, _direct(L, R)),
    _to("F15", LOOPBACK, "TCP", "127.0.0.1", 30080, _direct(L, R)),
    _to("F15: all of 127/8", LOOPBACK, "UDP", "127.1.2.3", 30053, _direct(DNS_L, DNS_R)),
    _to("F15", LOOPBACK, "TCP", "::1", 30080, _direct(L6, R6)),
    _left("F12: loopback is not for others", OUTSIDE, "TCP", "127.0.0.1", 30080),
    _left("K19: a port without a Service", HOST, "TCP", NODE, 22),
)
EXTERNAL = (
    _to("F4 E4", OUTSIDE, "TCP", "203.0.113.1", 80, _hidden(L), _direct(R)),
    _to("F4 I6", OUTSIDE, "TCP", "2001:db8::1", 80, _hidden(L6), _direct(R6)),
    _to("F4 E4", POD, "UDP", "203.0.113.1", 53, _hidden(DNS_L, DNS_R)),
    _to("F4 K19", HOST, "TCP", "203.0.113.1", 80, _direct(L, R)),
    _to("F1 E4", OUTSIDE, "TCP", "198.51.100.1", 80, _hidden(L), _direct(R)),
    _to("I1", OUTSIDE, "SCTP", "198.51.100.1", 36412, _hidden(SIGNAL_L), _direct(SIGNAL_R)),
    _to("F20", HOST, "TCP", "198.51.100.1", 80, _direct(L, R)),
    _to("F20", HOST, "TCP", "2001:db8::1", 80, _direct(L6, R6)),
    _left("H5", OUTSIDE, "TCP", "203.0.113.1", 81),
    _left("H5: no node address", OUTSIDE, "TCP", "203.0.113.1", 30080),
    _left("F2", OUTSIDE, "TCP", "198.51.100.91", 80),
    _to("E7: also when the VIP is on this node", OUTSIDE, "TCP", "198.51.100.2", 80, _stack(L)),
    _to("E5", POD, "TCP", "198.51.100.2", 80, _stack(L, R)),
    _to("E6", HOST, "TCP", "198.51.100.2", 80, _direct(L, R)),
    _dropped("C12", OUTSIDE, "TCP", "203.0.113.3", 80, NO_LOCAL),
    _to("C12 E5", POD, "TCP", "203.0.113.3", 80, _stack(R)),
    _to("C12 E6", HOST, "TCP", "203.0.113.3", 80, _direct(R)),
    _rejected("C10", OUTSIDE, "TCP", "203.0.113.6", 80, EMPTY),
    _rejected("C10", POD, "UDP", "203.0.113.6", 53, EMPTY),
    _dropped("F6", OUTSIDE, "TCP", "198.51.100.10", 80, RANGES),
    _dropped("F6: pods too", POD, "TCP", "198.51.100.10", 80, RANGES),
    _dropped("F6: the host too", HOST, "TCP", "198.51.100.10", 80, RANGES),
    _to("F5", IN_RANGE, "TCP", "198.51.100.10", 80, _direct(R)),
    _to("F5: load balancers alone", OUTSIDE, "TCP", "203.0.113.10", 80, _direct(R)),
    _to("F5: load balancers alone", OUTSIDE, "TCP", NODE, 30090, _direct(R)),
)
CLUSTER_IPS = (
    _to("E3", OUTSIDE, "TCP", "10.96.0.1", 80, _hidden(L), _direct(R)),
    _to("E3", OUTSIDE, "TCP", "fd00:10:96::1", 80, _hidden(L6), _direct(R6)),
    _to("E1", POD, "TCP", "10.96.0.1", 80, _stack(L, R)),
    _to("E1", POD, "TCP", "fd00:10:96::1", 80, _stack(L6, R6)),
    _to("E1", POD, "UDP", "10.96.0.1", 53, _stack(DNS_L, DNS_R)),
    _to("E1 I1", POD, "SCTP", "10.96.0.1", 36412, _stack(SIGNAL_L, SIGNAL_R)),
    _to("E2: not known as a pod", STRAY, "TCP", "10.96.0.1", 80, _hidden(L, R)),
    _to("E8", BACKEND, "TCP", "10.96.0.1", 80, _hidden(L), _stack(R)),
    _to("E8", BACKEND, "TCP", "fd00:10:96::1", 80, _hidden(L6), _stack(R6)),
    _to("E2", HOST, "TCP", "10.96.0.1", 80, _direct(L, R)),
    _to("E2", HOST, "UDP", "10.96.0.1", 53, _direct(DNS_L, DNS_R)),
    _to("C14: the external policy", OUTSIDE, "TCP", "10.96.0.2", 80, _hidden(L), _direct(R)),
    _to("C2", POD, "TCP", "10.96.0.4", 80, _stack(L)),
    _to("C2", OUTSIDE, "TCP", "10.96.0.4", 80, _hidden(L)),
    _dropped("C11", POD, "TCP", "10.96.0.5", 80, NO_LOCAL),
    _dropped("C11", OUTSIDE, "TCP", "10.96.0.5", 80, NO_LOCAL),
    _dropped("C11", HOST, "TCP", "10.96.0.5", 80, NO_LOCAL),
    _rejected("C10", POD, "TCP", "10.96.0.6", 80, EMPTY),
    _rejected("C10", OUTSIDE, "UDP", "10.96.0.6", 53, EMPTY),
    _rejected("C10", POD, "TCP", "fd00:10:96::6", 80, EMPTY),
    _rejected("C10", HOST, "TCP", "10.96.0.6", 80, EMPTY),
    _rejected("C10: nobody has any", OUTSIDE, "TCP", "10.96.0.7", 80, EMPTY),
    _to("C3 C6", POD, "TCP", "10.96.0.8", 80, _stack(R)),
    _to("C5", POD, "TCP", "10.96.0.9", 80, _stack(L)),
    _to("D3", POD, "TCP", "10.96.0.12", 80, _stack(R)),
    _rejected("H1", POD, "TCP", "10.96.0.1", 81, UNKNOWN),
    _rejected("H1: another protocol", POD, "TCP", "10.96.0.1", 53, UNKNOWN),
    _rejected("H1", OUTSIDE, "UDP", "10.96.0.1", 80, UNKNOWN),
    _rejected("H1", HOST, "TCP", "10.96.0.1", 81, UNKNOWN),
    _rejected("H1: a node port", POD, "TCP", "10.96.0.1", 30080, UNKNOWN),
    _dropped("H2", POD, "TCP", "10.96.0.99", 80, UNUSED),
    _dropped("H2", OUTSIDE, "UDP", "10.96.0.99", 80, UNUSED),
    _dropped("H2", POD, "TCP", "fd00:10:96::99", 80, UNUSED),
    _left("H6", POD, "UDP", "10.96.0.30", 53)._replace(counter="ON_DEVICE"),
    _left("E9", POD, "TCP", "10.244.2.10", 8080),
    _left("E9", OUTSIDE, "TCP", "10.244.1.10", 8080),
)
HOST_PORTS = (
    _to("L2", OUTSIDE, "TCP", NODE_2, 8000, _stack("10.244.1.21:8080")),
    _to("L2", OUTSIDE, "TCP", NODE_V6, 8000, _stack("fd00:10:244:1::15 8080")),
    _to("L2", POD, "TCP", NODE, 8000, _stack("10.244.1.21:8080")),
    _left("L2", OUTSIDE, "UDP", NODE, 8000),
    _to("L4", OUTSIDE, "TCP", NODE, 54323, _stack("10.244.1.23:8080")),
    _to("L4", OUTSIDE, "UDP", NODE, 54323, _stack("10.244.1.24:5353")),
    _left("L4", OUTSIDE, "TCP", NODE_2, 54323),
)
OPTIONS = (
    *_given(
        Option.PRESERVE_SOURCE,
        (
            _to("E4", OUTSIDE, "TCP", NODE, 30080, _stack(L), _direct(R)),
            _to("E4", OUTSIDE, "TCP", "2001:db8::1", 80, _stack(L6), _direct(R6)),
            _to("E4", POD, "TCP", NODE, 30080, _stack(L), _hidden(R)),
            _to("E8", BACKEND, "TCP", NODE, 30080, _hidden(L), _hidden(R)),
        ),
    ),
    *_given(
        Option.MASQUERADE_ALL,
        (
            _to("E1", POD, "TCP", "10.96.0.1", 80, _hidden(L, R)),
            _to("E1", POD, "TCP", "fd00:10:96::1", 80, _hidden(L6, R6)),
        ),
    ),
    *_given(
        Option.NO_DETECTOR,
        (
            _to("E10", POD, "TCP", "10.96.0.1", 80, _stack(L, R)),
            _to("E10 E3", OUTSIDE, "TCP", "10.96.0.1", 80, _stack(L, R)),
            _to("E10", POD, "TCP", NODE, 30081, _stack(L)),
            _to("E10", POD, "TCP", "198.51.100.2", 80, _stack(L)),
            _dropped("E10 C12", POD, "TCP", "203.0.113.3", 80, NO_LOCAL),
        ),
    ),
    *_given(
        Option.NO_POD_CIDR,
        (
            _to("E10 E3", OUTSIDE, "TCP", "10.96.0.1", 80, _stack(L, R)),
            _to("E10 E3", OUTSIDE, "TCP", "fd00:10:96::1", 80, _stack(L6, R6)),
            _to("E10", POD, "TCP", NODE, 30081, _stack(L)),
        ),
    ),
    *_given(
        Option.DSR,
        (
            _to("DSR: an address of all nodes", OUTSIDE, "TCP", "203.0.113.10", 80, _dsr(R)),
            _to("DSR: a node's own address is not", OUTSIDE, "TCP", NODE, 30090, _direct(R)),
        ),
    ),
)
OPTIONS += _given(
    Option.REDIRECT_PEER,
    (
        _to("E4", OUTSIDE, "TCP", NODE, 30080, _direct(L, R)),
        _to("E4", OUTSIDE, "TCP", NODE_V6, 30080, _direct(L6, R6)),
        _to("E7", OUTSIDE, "TCP", NODE, 30081, _peer(L)),
        _to("E4", POD, "TCP", NODE, 30080, _hidden(L, R)),
        _to("E4: a backend on the host", OUTSIDE, "TCP", NODE, 30093, _stack(ON_HOST), _direct(R)),
    ),
)
PACKET_FLOWS = (*NODE_PORTS, *EXTERNAL, *CLUSTER_IPS, *HOST_PORTS, *OPTIONS)
