# SPDX-License-Identifier: Apache-2.0
"""What should be served: the vocabulary between model and plan.

The model turns API objects into these values, the plan compares them with what is programmed.
All are immutable. Addresses are 16 bytes, v4-mapped (``::ffff:a.b.c.d`` for IPv4).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Mapping, NamedTuple

from kubeproxy_bpf.plan.records import FrontendKind


class Family(IntEnum):
    IPV4 = 4
    IPV6 = 6


class Protocol(IntEnum):
    """IP protocol numbers (IANA)."""

    TCP = 6
    UDP = 17
    SCTP = 132


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


class Problem(NamedTuple):
    """Bad input: which object, which field, what is wrong, what was done about it."""

    kind: str
    namespace: str
    name: str
    field: str
    message: str


class Changes(NamedTuple):
    """What a step of the model changed.

    ``services`` maps to None what is no longer served; ``vips`` maps an address to its VipFlags, 0
    for none. ``complete`` marks a result of everything, once all lists are known and every object
    of them could be read: then, and only then, what is programmed but not named here is stale.
    """

    services: Mapping[ServicePortId, Desired | None]
    vips: Mapping[bytes, int]
    complete: bool = False
