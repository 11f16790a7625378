# SPDX-License-Identifier: Apache-2.0
"""Which capabilities this process has, what each is for, and what is lost without it.

Says what the kernel would say later, in places where its answer is a bare EPERM. In a user
namespace all of them may be there and still be worth nothing: that ``bpf(2)`` answers is for
``probe`` to find out. Reads one file, changes nothing; called by ``probe``.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

STATUS = Path("/proc/self/status")


class Capability(IntEnum):
    """Numbers of capabilities(7)."""

    NET_ADMIN = 12
    NET_RAW = 13
    SYS_ADMIN = 21
    PERFMON = 38
    BPF = 39


class Privilege(NamedTuple):
    """A capability, and whether this process has what it gives."""

    capability: Capability
    held: bool
    purpose: str
    necessary: bool

    @property
    def name(self) -> str:
        """As manuals and manifests write it."""
        return f"CAP_{self.capability.name}"


def effective(status: Path = STATUS) -> frozenset[Capability]:
    """Those of the listed capabilities that the process may use."""
    (line,) = (each for each in status.read_text().splitlines() if each.startswith("CapEff:"))
    mask = int(line.split()[1], 16)
    return frozenset(each for each in Capability if mask >> each & 1)


def privileges(held: frozenset[Capability]) -> list[Privilege]:
    """Everything that the proxy uses, the necessary first."""
    # The kernel takes it in place of the smaller ones, wherever it loads programs.
    admin = Capability.SYS_ADMIN in held

    def has(capability: Capability) -> bool:
        return admin or capability in held

    network = Capability.NET_ADMIN in held
    return [
        Privilege(
            Capability.BPF, has(Capability.BPF), "makes maps, and loads programs with them", True
        ),
        Privilege(
            Capability.PERFMON, has(Capability.PERFMON), "lets programs compute with pointers", True
        ),
        Privilege(
            Capability.NET_ADMIN,
            network,
            "loads and attaches programs of the network (CAP_SYS_ADMIN does so too); without it "
            "stale entries of connection tracking and the rules of a kube-proxy stay",
            not has(Capability.NET_ADMIN),
        ),
        Privilege(
            Capability.SYS_ADMIN,
            admin,
            "finds programs by id and enters network namespaces of pods; without it only pins are "
            "taken over, UDP sockets in pods keep removed backends, and connections of a "
            "kube-proxy may not go on",
            False,
        ),
        Privilege(
            Capability.NET_RAW,
            Capability.NET_RAW in held,
            "asks iptables of the legacy kind; without it a kube-proxy's rules there stay",
            False,
        ),
    ]
