# SPDX-License-Identifier: Apache-2.0
"""The configuration that programs carry in ``.rodata``, fixed for as long as they are loaded.

Bound by name to ``struct kpb_config``; the composition root makes it, ``loader`` writes it.
"""

from __future__ import annotations

import socket
import sys
from enum import IntFlag
from typing import NamedTuple

_SO_NETNS_COOKIE = 71


class ConfigFlags(IntFlag):
    TCP_ORIGIN = 1
    POD_SHORTCUT_IPV4 = 2
    POD_SHORTCUT_IPV6 = 4
    MASQUERADE_ALL = 8
    PRESERVE_SOURCE = 16
    DSR_TCP = 32
    DSR_UDP = 64
    REDIRECT_PEER = 128
    DETECT_BY_CIDR = 256
    SERVICE_TRAFFIC = 512


class Settings(NamedTuple):
    host_netns: int
    """Cookie of the network namespace that counts as the host's."""
    instance: int
    flags: int
    """ConfigFlags"""
    snat_first: int = 10000
    snat_count: int = 20000
    """Source ports of masqueraded flows."""
    rejects_per_s: int = 1000
    """RSTs and ICMP errors, for each processor."""
    timeout: bytes = bytes(64)
    """Ticks by enum track_state, each of 4 bytes."""
    forward_mark: int = 0
    """Set on what is translated and handed to the host's FORWARD; 0: no mark."""
    middle_first: int = 1024
    middle_count: int = 8976
    """Source ports under which clients' packets pass netfilter that cannot keep their own."""


def netns_cookie() -> int:
    """Return the cookie of the network namespace of the calling thread."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        raw = own.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    return int.from_bytes(raw, sys.byteorder)
