# SPDX-License-Identifier: Apache-2.0
"""Records of the BPF maps: names and meaning only, no sizes and no offsets.

Each record is named like its C struct in ``bpf/include/kpb_types.h`` or ``kpb_packet_types.h``,
which are the one definition of the layout; ``dataplane.layout`` binds the two by field name when
the object is loaded and refuses any difference. Addresses are 16 bytes, v4-mapped. Enums are bound
name by name.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple


class VipFlags(IntFlag):
    CLUSTER_IP = 1
    EXTERNAL = 2
    NODE_PORT = 4
    HOST_PORT = 8
    LOOPBACK = 16
    ON_DEVICE = 32
    CANARY = 64
    LINGER = 128


class FrontendKind(IntEnum):
    CLUSTER_IP = 1
    EXTERNAL_IP = 2
    LOAD_BALANCER = 3
    NODE_PORT = 4
    HOST_PORT = 5


class FrontendFlags(IntFlag):
    EXTERNAL = 1
    SOURCE_RANGES = 2


class RecordFlags(IntFlag):
    INTERNAL_LOCAL = 1
    EXTERNAL_LOCAL = 2
    HAS_ENDPOINTS = 4
    CONSISTENT = 8


class BackendFlags(IntFlag):
    LIVE = 1
    LOCAL = 2
    HOST = 4


class Vip(NamedTuple):
    flags: int


class FrontendKey(NamedTuple):
    address: bytes
    port: int
    protocol: int


class Frontend(NamedTuple):
    service: int
    kind: int
    flags: int


class Service(NamedTuple):
    record: int
    generation: int


class Record(NamedTuple):
    slots: int
    members: int
    cluster_count: int
    local_first: int
    local_count: int
    affinity_timeout_s: int
    flags: int
    stats: int


class Slot(NamedTuple):
    backend: int


class Backend(NamedTuple):
    address: bytes
    port: int
    protocol: int
    flags: int
    generation: int


class SourceRangeKey(NamedTuple):
    prefix_bits: int
    """Counted from the start of ``service``: its 32, then those of the source, 128 at most."""
    service: int
    source: bytes


class SourceRange(NamedTuple):
    allow: int
