# SPDX-License-Identifier: Apache-2.0
"""What should be served: the vocabulary between model and plan.

The model turns API objects into these values, the plan compares them with what is programmed.
All are immutable. Addresses are 16 bytes, v4-mapped (``::ffff:a.b.c.d`` for IPv4).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Mapping, NamedTuple

from kubeproxy_bpf.plan.records import FrontendKind

_V4_PREFIX = bytes(10) + b"\xff\xff"


class Family(IntEnum):
    IPV4 = 4
    IPV6 = 6


class Protocol(IntEnum):
    """IP protocol numbers (IANA)."""

    TCP = 6
    UDP = 17
    SCTP = 132


def family_of(address: bytes) -> Family:
    return Family.IPV4 if address.startswith(_V4_PREFIX) else Family.IPV6


class Prefix(NamedTuple):
    """A CIDR; ``bits`` counts in 128, so an IPv4 /24 has 120."""

    address: bytes
    bits: int

    @property
    def family(self) -> Family:
        return family_of(self.address) if self.bits >= 96 else Family.IPV6

    @property
    def is_everything(self) -> bool:
        return self.bits == (96 if self.family == Family.IPV4 else 0)

    def __contains__(self, address: object) -> bool:
        # Without the family, ::/0 would hold every IPv4 address in its v4-mapped form.
        if not isinstance(address, bytes) or family_of(address) != self.family:
            return False
        shift = 128 - self.bits
        return (
            int.from_bytes(address, "big") >> shift == int.from_bytes(self.address, "big") >> shift
        )


class ServicePortId(NamedTuple):
    """One port of one Service in one family; or one host port of one Pod (``source="pod"``)."""

    source: str
    namespace: str
    name: str
    port_name: str
    protocol: int
    family: int

    def __str__(self) -> str:
        port = self.port_name or "-"
        return (
            f"{self.namespace}/{self.name}:{port}/{Protocol(self.protocol).name}/IPv{self.family}"
        )


class FrontendSpec(NamedTuple):
    """Where a service port is reached. The first three fields are its identity."""

    address: bytes
    port: int
    protocol: int
    kind: FrontendKind
    flags: int
    """FrontendFlags"""


class BackendSpec(NamedTuple):
    """A target of the dataplane. The first three fields are its identity."""

    address: bytes
    port: int
    protocol: int
    flags: int
    """BackendFlags.LOCAL and .HOST; LIVE is the plan's."""


class Desired(NamedTuple):
    """All that should be programmed for one service port.

    ``backends`` holds every serving endpoint once, in extent order: cluster set only, both sets,
    local set only, serving but in no set. The sets are windows of it (see ``struct record``).
    """

    frontends: tuple[FrontendSpec, ...]
    backends: tuple[BackendSpec, ...]
    cluster_count: int
    local_first: int
    local_count: int
    affinity_timeout_s: int
    flags: int
    """RecordFlags"""
    source_ranges: tuple[Prefix, ...] = ()
    """Who may use the frontends that have FrontendFlags.SOURCE_RANGES, sorted."""


class Problem(NamedTuple):
    """Bad input: which object, which field, what is wrong, what was done about it."""

    kind: str
    namespace: str
    name: str
    field: str
    message: str
    note: bool = False
    """Nothing is wrong with the object, but its owner may expect more than is done."""


class Changes(NamedTuple):
    """What a step of the model changed.

    ``services`` maps to None what is no longer served; ``vips`` maps an address to its VipFlags, 0
    for none. ``complete`` marks a result of everything, once all lists are known and every object
    of them could be read: then, and only then, what is programmed but not named here is stale.
    """

    services: Mapping[ServicePortId, Desired | None]
    vips: Mapping[bytes, int]
    complete: bool = False
