# SPDX-License-Identifier: Apache-2.0
"""The state of the datapath as metrics: decisions, maps, hooks, and what found no room.

Readings come from ``instance``, ``dataplane.program`` and ``sync``; ``telemetry`` joins them. No
map is walked here: its fill is what the planner knows, or what was counted in the background.
"""

from __future__ import annotations

from typing import Iterator, Mapping, NamedTuple

from kubeproxy_bpf.metering import Family, gauge


class HookReading(NamedTuple):
    """The programs at the cgroup."""

    active: tuple[str, ...] = ()
    inactive: tuple[str, ...] = ()
    """Attached, and do not run for its sockets."""
    proved: bool | None = None
    """Whether a socket of a test was translated; None before the first sync."""


class MapReading(NamedTuple):
    """How full one map is."""

    used: int | None
    """None where nobody counted yet."""
    capacity: int


class DatapathReading(NamedTuple):
    """The state of one moment."""

    verdicts: Mapping[str, int] = {}
    """Decisions of the programs, by reason."""
    hooks: HookReading = HookReading()
    maps: Mapping[str, MapReading] = {}
    unfit: Mapping[str, int] = {}
    """Service ports without room, by the map that is full."""
    service_ports: int = 0
    sockets_aborted: int = 0


def families(reading: DatapathReading) -> Iterator[Family]:
    """The reading as metrics."""
    yield Family(
        "kubeproxy_bpf_verdicts_total",
        "counter",
        "Decisions of the BPF programs, by reason",
        ("reason",),
        {(reason,): count for reason, count in reading.verdicts.items()},
    )
    yield from _hooks(reading.hooks)
    yield from _maps(reading.maps)
    yield gauge(
        "kubeproxy_bpf_service_ports", "Service ports that are programmed", reading.service_ports
    )
    yield Family(
        "kubeproxy_bpf_service_ports_unfit",
        "gauge",
        "Service ports that are not programmed because a map is full",
        ("map",),
        {(name,): count for name, count in reading.unfit.items()},
    )
    yield Family(
        "kubeproxy_bpf_udp_sockets_aborted_total",
        "counter",
        "Connected UDP sockets that were aborted since their backend went away",
        (),
        {(): reading.sockets_aborted},
    )


def _hooks(reading: HookReading) -> Iterator[Family]:
    active = {(name,): 1.0 for name in reading.active}
    yield Family(
        "kubeproxy_bpf_hook_active",
        "gauge",
        "Whether a program at the cgroup runs for the sockets in it",
        ("hook",),
        {**active, **{(name,): 0.0 for name in reading.inactive}},
    )
    if reading.proved is not None:
        yield gauge(
            "kubeproxy_bpf_hooks_proved",
            "Whether a connection of a test was translated when the hooks were attached",
            int(reading.proved),
        )


def _maps(readings: Mapping[str, MapReading]) -> Iterator[Family]:
    yield Family(
        "kubeproxy_bpf_map_entries",
        "gauge",
        "Entries of a BPF map that are in use",
        ("map",),
        {(name,): reading.used for name, reading in readings.items() if reading.used is not None},
    )
    yield Family(
        "kubeproxy_bpf_map_capacity",
        "gauge",
        "Entries that a BPF map has room for",
        ("map",),
        {(name,): reading.capacity for name, reading in readings.items()},
    )
