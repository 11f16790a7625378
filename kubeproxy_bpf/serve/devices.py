# SPDX-License-Identifier: Apache-2.0
"""Metrics of the packet programs at devices: where they stand, and what became of them.

``packets`` makes the readings; ``metrics`` serves them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterable, Mapping, NamedTuple

if TYPE_CHECKING:
    from prometheus_client.core import Metric

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


def families(reading: DeviceReading) -> Iterable[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    yield GaugeMetricFamily(
        "kubeproxy_bpf_packet_path_loaded",
        "Whether the kernel took the programs of the packet path",
        int(reading.loaded),
    )
    places = ["device", "hook"]
    attached = GaugeMetricFamily(
        "kubeproxy_bpf_device_attached",
        "Whether the packet program is attached at a hook where it belongs",
        labels=places,
    )
    for place in reading.attached:
        attached.add_metric(place, 1)
    for place in reading.refused:
        attached.add_metric(place, 0)
    yield attached
    put_back = CounterMetricFamily(
        "kubeproxy_bpf_device_reattachments",
        "Packet programs that somebody removed or pushed aside, and that were put back",
        labels=places,
    )
    for place, count in reading.put_back.items():
        put_back.add_metric(place, count)
    yield put_back
    modes = GaugeMetricFamily(
        "kubeproxy_bpf_device_xdp_mode",
        "How XDP runs at an uplink: 1 for the mode that it has",
        labels=["device", "mode"],
    )
    for device, mode in reading.xdp_modes.items():
        for name in XDP_MODES:
            modes.add_metric([device, name], int(name == mode))
    yield modes
