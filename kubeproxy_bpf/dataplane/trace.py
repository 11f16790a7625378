# SPDX-License-Identifier: Apache-2.0
"""Reads maps the way the BPF programs do: where would a connection go, and what do the maps say.

The oracle for tests of the C code and of the model: ``trace`` follows ``bpf/lib/lb.h`` step by step
over the contents of the maps and yields the whole set from which a program would choose. It sees
one moment and no state of sockets: no affinity, no stickiness. Works on a fake or on a dump.
"""

from __future__ import annotations

import errno
import ipaddress
from enum import Enum
from typing import Iterator, Mapping, NamedTuple, Protocol, Sequence

from kubeproxy_bpf.model.types import Protocol as IpProtocol
from kubeproxy_bpf.plan.records import (
    Backend,
    BackendFlags,
    Frontend,
    FrontendFlags,
    FrontendKey,
    FrontendKind,
    Record,
    RecordFlags,
    Service,
    SourceRange,
    SourceRangeKey,
    VipFlags,
)

_V4_PREFIX = bytes(10) + b"\xff\xff"
_LOOPBACK_V4 = _V4_PREFIX + bytes((127, 0, 0, 1))
_LOOPBACK_V6 = bytes(15) + b"\1"
_WILDCARDS = (_V4_PREFIX + bytes(4), bytes(16))


class Maps(Protocol):
    """The contents of the maps."""

    @property
    def vips(self) -> Mapping[bytes, int]: ...
    @property
    def frontends(self) -> Mapping[FrontendKey, Frontend]: ...
    @property
    def services(self) -> Mapping[int, Service]: ...
    @property
    def records(self) -> Mapping[int, Record]: ...
    @property
    def slots(self) -> Sequence[int]: ...
    @property
    def backends(self) -> Mapping[int, Backend]: ...
    @property
    def node_ports(self) -> Sequence[int]: ...
    @property
    def source_ranges(self) -> Mapping[SourceRangeKey, SourceRange]: ...


class Client(NamedTuple):
    """Who connects."""

    host: bool = False
    """In the namespace of the proxy; else a pod."""
    shortcut: bool = False
    """Pods have a local detector in this family (CONFIG_POD_SHORTCUT_*)."""
    loopback_source: bool = False
    """Bound to a loopback address."""


HOST = Client(host=True)
POD = Client()


class Reason(Enum):
    """How a decision ended; named like the counters."""

    NONE = "none"
    """No concern of ours: the address is no VIP, or not for this client, or the port is free."""
    TRANSLATED = "translated"
    NO_ENDPOINTS = "no_endpoints"
    NO_LOCAL_ENDPOINT = "no_local_endpoint"
    UNKNOWN_PORT = "unknown_port"
    SOURCE_RANGES = "source_ranges"
    ON_DEVICE = "on_device"
    LOOPBACK_SOURCE = "loopback_source"
    HALF_STATE = "half_state"
    """An id led nowhere: never."""


_ERRNO = {
    Reason.NO_ENDPOINTS: errno.ECONNREFUSED,
    Reason.UNKNOWN_PORT: errno.ECONNREFUSED,
    Reason.HALF_STATE: errno.ECONNREFUSED,
    Reason.NO_LOCAL_ENDPOINT: errno.EHOSTUNREACH,
}


class Verdict(NamedTuple):
    """Where a connection goes."""

    reason: Reason
    backends: frozenset[tuple[str, int]] = frozenset()
    """(address, port) of every backend that may be chosen."""

    @property
    def errno(self) -> int:
        """What connect() fails with; 0 if it goes on."""
        return _ERRNO.get(self.reason, 0)


def trace(maps: Maps, client: Client, address: bytes, port: int, protocol: int) -> Verdict:
    """Say where a connection of this client to this destination would go."""
    address = vip_address(address)
    flags = maps.vips.get(address, 0)
    if not flags or flags & VipFlags.CANARY or (flags & VipFlags.LOOPBACK and not client.host):
        return Verdict(Reason.NONE)
    if flags & VipFlags.ON_DEVICE:
        return Verdict(Reason.ON_DEVICE)
    frontend = find_frontend(maps, flags, FrontendKey(address, port, protocol))
    if frontend is None:
        known = flags & VipFlags.CLUSTER_IP
        return Verdict(Reason.UNKNOWN_PORT if known else Reason.NONE)
    if frontend.flags & FrontendFlags.SOURCE_RANGES:
        return Verdict(Reason.SOURCE_RANGES)
    record = find_record(maps, frontend.service)
    if record is None:
        return Verdict(Reason.HALF_STATE)
    return _choices(maps, client, record, _wants_local(frontend, record, client))


def vip_address(address: bytes) -> bytes:
    """0.0.0.0 and all of 127/8 are one loopback address, as are :: and ::1."""
    if address in _WILDCARDS:
        return _LOOPBACK_V4 if address.startswith(_V4_PREFIX) else _LOOPBACK_V6
    return _LOOPBACK_V4 if address.startswith(_V4_PREFIX + b"\x7f") else address


def find_frontend(maps: Maps, vip_flags: int, key: FrontendKey) -> Frontend | None:
    exact = maps.frontends.get(key)
    if exact is not None or not vip_flags & (VipFlags.NODE_PORT | VipFlags.HOST_PORT):
        return exact
    if not maps.node_ports[key.port >> 6] >> (key.port & 63) & 1:
        return None
    wildcard = _WILDCARDS[0 if key.address.startswith(_V4_PREFIX) else 1]
    frontend = maps.frontends.get(key._replace(address=wildcard))
    if frontend is None:
        return None
    node_port = frontend.kind == FrontendKind.NODE_PORT
    allowed = vip_flags & (VipFlags.NODE_PORT if node_port else VipFlags.HOST_PORT)
    return frontend if allowed else None


def find_record(maps: Maps, index: int) -> Record | None:
    word = maps.services.get(index)
    return maps.records.get(word.record) if word and word.record else None


def _wants_local(frontend: Frontend, record: Record, client: Client) -> bool:
    """Internal scope obeys its policy; external scope too, but clients on the node may pass."""
    if not frontend.flags & FrontendFlags.EXTERNAL:
        return bool(record.flags & RecordFlags.INTERNAL_LOCAL)
    if not record.flags & RecordFlags.EXTERNAL_LOCAL:
        return False
    return not (client.host or client.shortcut)


def _choices(maps: Maps, client: Client, record: Record, local: bool) -> Verdict:
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
    if client.loopback_source:
        found = [backend for backend in found if backend.flags & BackendFlags.HOST]
        if not found:
            return Verdict(Reason.LOOPBACK_SOURCE)
    return Verdict(Reason.TRANSLATED, frozenset((text_of(b.address), b.port) for b in found))


def dump_text(maps: Maps) -> str:
    """What the maps mean, one line per entry, sorted within each kind."""
    lines = [
        *(f"vip {text_of(a)} {_names(VipFlags(f))}" for a, f in sorted(maps.vips.items())),
        *(_frontend_line(key, value) for key, value in sorted(maps.frontends.items())),
        *_range_lines(maps),
        *_service_lines(maps),
        *_backend_lines(maps),
        *_port_lines(maps),
    ]
    return "".join(line + "\n" for line in lines)


def _frontend_line(key: FrontendKey, value: Frontend) -> str:
    scope = "external" if value.flags & FrontendFlags.EXTERNAL else "internal"
    ranges = " source_ranges" if value.flags & FrontendFlags.SOURCE_RANGES else ""
    kind = FrontendKind(value.kind).name
    return f"frontend {_at(*key)} {kind} scope={scope}{ranges} service={value.service}"


def _range_lines(maps: Maps) -> Iterator[str]:
    for bits, service, source in sorted(maps.source_ranges):
        length = bits - (128 if source.startswith(_V4_PREFIX) else 32)
        yield f"source_range service={service} {text_of(source)}/{length}"


def _service_lines(maps: Maps) -> Iterator[str]:
    for index, word in sorted(maps.services.items()):
        record = maps.records.get(word.record) if word.record else None
        if record is None:
            continue
        ids = maps.slots[record.slots : record.slots + record.members]
        local_end = record.local_first + record.local_count
        served = sorted({*range(record.cluster_count), *range(record.local_first, local_end)})
        other = [ids[i] for i in range(record.members) if i not in served]
        policy = _names(RecordFlags(record.flags))
        yield (
            f"service {index} generation={word.generation} policy={policy}"
            f" affinity={record.affinity_timeout_s}s"
            f" cluster=[{_members(maps, ids[: record.cluster_count])}]"
            f" local=[{_members(maps, ids[record.local_first : local_end])}]"
            f" other=[{_members(maps, other)}]"
        )


def _members(maps: Maps, ids: Sequence[int]) -> str:
    names = []
    for number in ids:
        backend = maps.backends.get(number)
        names.append(_at(*backend[:3]) if backend else f"backend {number} is missing")
    return " ".join(sorted(names))


def _backend_lines(maps: Maps) -> Iterator[str]:
    live = [b for b in maps.backends.values() if b.flags & BackendFlags.LIVE]
    for backend in sorted(live):
        flags = _names(BackendFlags(backend.flags & ~BackendFlags.LIVE))
        yield f"backend {_at(*backend[:3])} flags={flags}"


def _port_lines(maps: Maps) -> Iterator[str]:
    for port in range(65536):
        if maps.node_ports[port >> 6] and maps.node_ports[port >> 6] >> (port & 63) & 1:
            yield f"node_port {port}"


def _names(flags: VipFlags | RecordFlags | BackendFlags) -> str:
    return "|".join(member.name or "" for member in flags) or "-"


def _at(address: bytes, port: int, protocol: int) -> str:
    text = text_of(address)
    where = f"[{text}]" if ":" in text else text
    return f"{where}:{port}/{IpProtocol(protocol).name}"


def text_of(address: bytes) -> str:
    if address.startswith(_V4_PREFIX):
        return str(ipaddress.IPv4Address(address[12:]))
    return str(ipaddress.IPv6Address(address))
