# SPDX-License-Identifier: Apache-2.0
"""Words for attaching to devices: programs, where they belong, and what holds them there.

Shared by ``loader``, by ``devices``, which decides, and by ``devicelink`` and ``clsact``, which
attach.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import NamedTuple, Protocol

from kubeproxy_bpf.libbpf import Link

XDP_PROGRAMS = ("kpb_xdp", "kpb_xdp_linear")
"""In order of preference: for frames of several buffers (Linux 5.18), for all others."""
BARE_IP_PROGRAMS = ("kpb_tc_ingress_l3", "kpb_tc_egress_l3")
"""For devices without Ethernet header."""

NO_LONGER_FIRST = "no longer first"
"""The fault of a program that works, but behind others."""


class Hook(Enum):
    INGRESS = "ingress"
    EGRESS = "egress"
    XDP = "xdp"


class Place(NamedTuple):
    """A hook of a device."""

    ifindex: int
    device: str
    """Its name: the kernel gives the numbers of devices that are gone to others."""
    hook: Hook

    def __str__(self) -> str:
        return f"{self.device} {self.hook.value}"


class Hold(Protocol):
    """What keeps a program at its place."""

    def fault(self) -> str | None:
        """Say what is wrong with the place of our program; None if nothing is.

        Raises:
            OSError: the device is gone.
        """
        ...

    def detach(self) -> None:
        """End it, also when its device is gone."""
        ...

    def close(self) -> None:
        """Let go; what is pinned stays attached."""
        ...

    def pinned(self) -> tuple[Path, Link] | None:
        """The link, and where it is pinned; None where there is no link or no pin."""
        return None
