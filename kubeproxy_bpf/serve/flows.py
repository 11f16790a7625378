# SPDX-License-Identifier: Apache-2.0
"""Metrics of the packet path's flows.

``packet_state`` makes the readings; ``telemetry`` joins them. What single service ports do is told
by ``services``.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple

from kubeproxy_bpf.metering import Family


class FlowReading(NamedTuple):
    """The flows of one moment."""

    entries: int = 0
    """As the last sweep met them."""
    capacity: int = 0
    """0: there is no packet path."""
    removed: int = 0


def families(reading: FlowReading) -> Iterator[Family]:
    """The reading as metrics; how full the table is stands among the other maps."""
    if not reading.capacity:
        return
    yield Family(
        "kubeproxy_bpf_flows_swept_total",
        "counter",
        "Dead flow entries that the sweep removed",
        (),
        {(): reading.removed},
    )
