# SPDX-License-Identifier: Apache-2.0
"""How the programs track flows: states, how long each may be idle, and how many flows fit.

Time-outs that the configuration leaves open, and the size of the table, are what this kernel's own
connection tracking has or would have. What follows is fixed for the run and goes into ``Settings``;
``program_settings`` does that. Nothing here knows a map.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from pathlib import Path
from typing import Mapping

TICK_NS = 1 << 27
"""The unit of deadlines, TICK_SHIFT of kpb_packet_types.h."""

TIMEOUTS = 16
"""CONFIG_TIMEOUTS of kpb_types.h."""

SYSCTLS = Path("/proc/sys/net/netfilter")

_MAX_TICKS = 1 << 30
"""Deadlines are compared by their difference, which must stay below half of 32 bits."""
_GIB = 1 << 30


class TrackState(IntEnum):
    """``enum track_state``, bound by name when the packet programs are loaded."""

    NONE = 0
    TCP_NEW = 1
    TCP_REPLIED = 2
    TCP_ESTABLISHED = 3
    TCP_CLOSING = 4
    TCP_TIME_WAIT = 5
    TCP_CLOSED = 6
    UDP_NEW = 7
    UDP_REPLIED = 8
    OTHER = 9
    KINDS = 10


_DEFAULTS: Mapping[TrackState, tuple[str, float]] = {
    TrackState.TCP_NEW: ("tcp_timeout_syn_sent", 60.0),
    TrackState.TCP_REPLIED: ("tcp_timeout_syn_recv", 60.0),
    TrackState.TCP_ESTABLISHED: ("tcp_timeout_established", 86400.0),
    TrackState.TCP_CLOSING: ("tcp_timeout_close_wait", 3600.0),
    TrackState.TCP_TIME_WAIT: ("tcp_timeout_time_wait", 120.0),
    TrackState.TCP_CLOSED: ("tcp_timeout_close", 10.0),
    TrackState.UDP_NEW: ("udp_timeout", 30.0),
    TrackState.UDP_REPLIED: ("udp_timeout_stream", 120.0),
    TrackState.OTHER: ("generic_timeout", 600.0),
}
"""Per state: the sysctl nf_conntrack_*, and the seconds where the kernel has none."""


def timeouts(
    configured: Mapping[TrackState, float], sysctls: Path = SYSCTLS
) -> dict[TrackState, float]:
    """Seconds for each state: as configured if positive, else the kernel's, else a default."""
    return {
        state: configured.get(state, 0.0) or _sysctl(sysctls / f"nf_conntrack_{name}") or default
        for state, (name, default) in _DEFAULTS.items()
    }


def encode_timeouts(seconds: Mapping[TrackState, float]) -> bytes:
    """Ticks by state, as ``struct kpb_config`` holds them; no time-out is shorter than asked."""
    ticks = [0] * TIMEOUTS
    for state, timeout_s in seconds.items():
        ticks[state] = min(-(-int(timeout_s * 1e9) // TICK_NS), _MAX_TICKS)
    return struct.pack(f"={TIMEOUTS}I", *ticks)


def default_flows(memory_bytes: int) -> int:
    """Entries of the flow table: two for each connection that conntrack would have room for.

    By the kernel's rule for nf_conntrack_max: by memory up to 1 GiB, 65536 up to 4 GiB, then
    262144.
    """
    if memory_bytes > 4 * _GIB:
        connections = 262144
    elif memory_bytes > _GIB:
        connections = 65536
    else:
        connections = max(_power_of_2(memory_bytes // 16384 // 8), 1024)
    return 2 * connections


def _power_of_2(number: int) -> int:
    """The number, or the next larger power of 2."""
    return 1 << max(number - 1, 0).bit_length()


def _sysctl(path: Path) -> float:
    """Seconds; 0 where there is no such sysctl, as without the conntrack module."""
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return 0.0
