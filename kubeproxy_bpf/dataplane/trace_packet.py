# SPDX-License-Identifier: Apache-2.0
"""Reads maps the way the packet programs do: what becomes of the first packet of a flow.

The second half of the oracle in ``trace``: the same steps from VIP to backends, and what only
packets have, namely sources that are known and may be filtered, masquerading, and the way that a
flow takes past or through the stack. It sees one moment: no flows, no affinity, no routes, and of
a consistent choice the whole set. Pure; for tests, and for asking "what would happen".
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Sequence

from kubeproxy_bpf.dataplane.settings import ConfigFlags
from kubeproxy_bpf.dataplane.trace import Maps, find_frontend, find_record, text_of, vip_address
from kubeproxy_bpf.model.types import Protocol
from kubeproxy_bpf.plan.records import (
    Backend,
    BackendFlags,
    Frontend,
    FrontendFlags,
    FrontendKey,
    FrontendKind,
    Record,
    RecordFlags,
    SourceRangeKey,
    VipFlags,
)

_V4_PREFIX = bytes(10) + b"\xff\xff"
_SERVICE_BITS = 32


class Arrival(Enum):
    """Where a packet meets the programs first."""

    OUTSIDE = "ingress of a device that leads away from the node"
    POD = "ingress of a pod's device"
    HOST = "egress: it left a socket of the host"


class Way(Enum):
    """How a flow passes the node."""

    DIRECT = "by redirection in both directions; netfilter sees none of it"
    STACK = "through the stack, which sees client and backend"
    DSR = "unchanged to the backend's node, which answers the client itself"


class Reason(Enum):
    """How the decision ended; named like the counters."""

    NONE = "none"
    """No concern of ours: left alone."""
    ON_DEVICE = "on_device"
    """Left alone."""
    TRANSLATED = "translated"
    SCTP_PORT = "sctp_port"
    """Left alone: the checksum would have to change with the port."""
    NO_ENDPOINTS = "packet_no_endpoints"
    """Rejected."""
    UNKNOWN_PORT = "packet_unknown_port"
    """Rejected."""
    NO_LOCAL_ENDPOINT = "packet_no_local_endpoint"
    """Dropped."""
    UNUSED_ADDRESS = "packet_unused_address"
    """Dropped."""
    SOURCE_RANGES = "packet_source_ranges"
    """Dropped."""
    HALF_STATE = "half_state"
    """Dropped: an id led nowhere, never."""


class Packet(NamedTuple):
    """The first one of a flow; addresses of 16 bytes."""

    arrival: Arrival
    source: bytes
    destination: bytes
    destination_port: int
    protocol: int
    detected: bool = False
    """The local detector takes the source for a pod of this node."""


class Facts(NamedTuple):
    """What the programs know beside the Services."""

    flags: int = 0
    """ConfigFlags"""
    service_cidrs: Sequence[tuple[bytes, bytes]] = ()
    """(address, mask) of each."""
    pod_cidrs: Sequence[tuple[bytes, bytes]] = ()
    """Of the local detector, where it goes by networks."""


class Choice(NamedTuple):
    """One backend that may get the flow, and how."""

    address: str
    port: int
    masqueraded: bool
    """It sees an address of the node."""
    way: Way


class Verdict(NamedTuple):
    """What becomes of a flow."""

    reason: Reason
    choices: frozenset[Choice] = frozenset()


def trace_packet(maps: Maps, facts: Facts, packet: Packet) -> Verdict:
    """Say what becomes of the first packet of a flow."""
    address = packet.destination
    if packet.arrival is Arrival.HOST:
        address = vip_address(address)
    flags = maps.vips.get(address, 0)
    if not flags or flags & VipFlags.LINGER:
        unused = _within(address, facts.service_cidrs)
        return Verdict(Reason.UNUSED_ADDRESS if unused else Reason.NONE)
    if flags & VipFlags.ON_DEVICE:
        return Verdict(Reason.ON_DEVICE)
    if flags & VipFlags.CANARY or (
        flags & VipFlags.LOOPBACK and packet.arrival is not Arrival.HOST
    ):
        return Verdict(Reason.NONE)
    key = FrontendKey(address, packet.destination_port, packet.protocol)
    frontend = find_frontend(maps, flags, key)
    if frontend is None:
        owned = flags & VipFlags.CLUSTER_IP
        return Verdict(Reason.UNKNOWN_PORT if owned else Reason.NONE)
    if frontend.flags & FrontendFlags.SOURCE_RANGES and not _is_allowed(maps, frontend, packet):
        return Verdict(Reason.SOURCE_RANGES)
    record = find_record(maps, frontend.service)
    if record is None:
        return Verdict(Reason.HALF_STATE)
    return _choices(maps, facts, packet, frontend, record)


def _within(address: bytes, networks: Sequence[tuple[bytes, bytes]]) -> bool:
    value = int.from_bytes(address, "big")
    return any(
        value & int.from_bytes(mask, "big") == int.from_bytes(network, "big")
        for network, mask in networks
    )


def _is_allowed(maps: Maps, frontend: Frontend, packet: Packet) -> bool:
    """Whether a range of the service holds the source."""
    source = int.from_bytes(packet.source, "big")
    for bits in range(129):
        prefix = source >> bits << bits
        key = SourceRangeKey(
            _SERVICE_BITS + 128 - bits, frontend.service, prefix.to_bytes(16, "big")
        )
        if key in maps.source_ranges:
            return True
    return False


def _choices(
    maps: Maps, facts: Facts, packet: Packet, frontend: Frontend, record: Record
) -> Verdict:
    local = _wants_local(packet, frontend, record)
    first, count = record.slots, record.cluster_count
    if local:
        first, count = record.slots + record.local_first, record.local_count
    if not count:
        drops = local and record.flags & RecordFlags.HAS_ENDPOINTS
        return Verdict(Reason.NO_LOCAL_ENDPOINT if drops else Reason.NO_ENDPOINTS)
    backends = [maps.backends.get(number) for number in maps.slots[first : first + count]]
    found = [b for b in backends if b is not None and b.flags & BackendFlags.LIVE]
    if len(found) < count:
        return Verdict(Reason.HALF_STATE)
    if packet.protocol == Protocol.SCTP:
        found = [b for b in found if b.port == packet.destination_port]
        if not found:
            return Verdict(Reason.SCTP_PORT)
    return Verdict(
        Reason.TRANSLATED,
        frozenset(_choice(facts, packet, frontend, record, backend) for backend in found),
    )


def _wants_local(packet: Packet, frontend: Frontend, record: Record) -> bool:
    """Internal scope obeys its policy; external scope too, but not for clients on the node."""
    if not frontend.flags & FrontendFlags.EXTERNAL:
        return bool(record.flags & RecordFlags.INTERNAL_LOCAL)
    if not record.flags & RecordFlags.EXTERNAL_LOCAL:
        return False
    return packet.arrival is not Arrival.HOST and not packet.detected


def _choice(
    facts: Facts, packet: Packet, frontend: Frontend, record: Record, backend: Backend
) -> Choice:
    remote = not backend.flags & (BackendFlags.LOCAL | BackendFlags.HOST)
    dsr = _answers_itself(facts, packet, frontend)
    masqueraded = _masquerades(facts, packet, frontend, record, backend) and not dsr
    way = Way.DSR if dsr and remote else _way(facts, packet, backend, masqueraded)
    return Choice(text_of(backend.address), backend.port, masqueraded, way)


def _way(facts: Facts, packet: Packet, backend: Backend, masqueraded: bool) -> Way:
    """What comes from or goes to a local pod meets the CNI's rules, but where that is waived."""
    if packet.arrival is Arrival.HOST:
        return Way.DIRECT
    if packet.arrival is Arrival.POD or backend.flags & BackendFlags.HOST:
        return Way.STACK
    past = masqueraded
    if backend.flags & BackendFlags.LOCAL:
        past = bool(facts.flags & ConfigFlags.REDIRECT_PEER)
    return Way.DIRECT if past else Way.STACK


def _answers_itself(facts: Facts, packet: Packet, frontend: Frontend) -> bool:
    """Direct server return: for clients of the outside, to addresses that all nodes have."""
    tcp = packet.protocol == Protocol.TCP
    wanted = facts.flags & (ConfigFlags.DSR_TCP if tcp else ConfigFlags.DSR_UDP)
    everywhere = frontend.kind in (FrontendKind.EXTERNAL_IP, FrontendKind.LOAD_BALANCER)
    outside = packet.arrival is Arrival.OUTSIDE and not packet.detected
    return bool(wanted and everywhere and outside)


def _masquerades(
    facts: Facts, packet: Packet, frontend: Frontend, record: Record, backend: Backend
) -> bool:
    """Whether the backend sees the node instead of the client.

    1. What the host sends, and a pod that reaches itself: always; no packet may come from where
       it goes.
    2. A backend in the host's own namespace: never; its packets are delivered, not sent. Host
       ports neither, as with the portmap plugin.
    3. Internal scope: what no detected pod sent, if there is a detector; all if configured.
    4. External scope: local policy keeps the client; else always, but for local backends if the
       source is to be preserved.
    """
    if packet.arrival is Arrival.HOST or packet.source == backend.address:
        return True
    if backend.flags & BackendFlags.HOST or frontend.kind == FrontendKind.HOST_PORT:
        return False
    if backend.flags & BackendFlags.LOCAL and facts.flags & ConfigFlags.PRESERVE_SOURCE:
        return False
    if not frontend.flags & FrontendFlags.EXTERNAL:
        return _masquerades_internal(facts, packet)
    return not record.flags & RecordFlags.EXTERNAL_LOCAL


def _masquerades_internal(facts: Facts, packet: Packet) -> bool:
    if facts.flags & ConfigFlags.MASQUERADE_ALL:
        return True
    return _has_detector(facts, packet) and not packet.detected


def _has_detector(facts: Facts, packet: Packet) -> bool:
    """Whether there is a local detector for the packet's family."""
    ipv4 = packet.source.startswith(_V4_PREFIX)
    if not facts.flags & (ConfigFlags.POD_SHORTCUT_IPV4 if ipv4 else ConfigFlags.POD_SHORTCUT_IPV6):
        return False
    if not facts.flags & ConfigFlags.DETECT_BY_CIDR:
        return True
    return any(network.startswith(_V4_PREFIX) is ipv4 for network, _ in facts.pod_cidrs)
