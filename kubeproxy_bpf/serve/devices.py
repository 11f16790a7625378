# SPDX-License-Identifier: Apache-2.0
"""Metrics of the packet programs at devices: where they stand, and what became of them.

``packets`` makes the readings; ``metrics`` serves them.
"""

from __future__ import annotations

from typing import Iterator, Mapping, NamedTuple

from kubeproxy_bpf.metering import Family, gauge

_PLACES = ("device", "hook")
XDP_MODES = ("native", "generic", "none")


class DeviceReading(NamedTuple):
    """What stands where at one moment."""

    loaded: bool = False
    """Whether the kernel took the packet programs at all."""
    attached: tuple[tuple[str, str], ...] = ()
    """(device, hook) of all programs."""
    put_back: Mapping[tuple[str, str], int] = {}
    """How often a program had to be attached again."""
    refused: tuple[tuple[str, str], ...] = ()
    """Places that shall have a program and cannot."""
    xdp_modes: Mapping[str, str] = {}
    """Of each uplink: native, generic or none."""


def families(reading: DeviceReading) -> Iterator[Family]:
    """The reading as metrics."""
    yield gauge(
        "kubeproxy_bpf_packet_path_loaded",
        "Whether the kernel took the programs of the packet path",
        int(reading.loaded),
    )
    attached = dict.fromkeys(reading.attached, 1.0)
    yield Family(
        "kubeproxy_bpf_device_attached",
        "gauge",
        "Whether the packet program is attached at a hook where it belongs",
        _PLACES,
        {**attached, **dict.fromkeys(reading.refused, 0.0)},
    )
    yield Family(
        "kubeproxy_bpf_device_reattachments_total",
        "counter",
        "Packet programs that somebody removed or pushed aside, and that were put back",
        _PLACES,
        dict(reading.put_back),
    )
    yield Family(
        "kubeproxy_bpf_device_xdp_mode",
        "gauge",
        "How XDP runs at an uplink: 1 for the mode that it has",
        ("device", "mode"),
        {
            (device, mode): float(mode == found)
            for device, found in reading.xdp_modes.items()
            for mode in XDP_MODES
        },
    )
