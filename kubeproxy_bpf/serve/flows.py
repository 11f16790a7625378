# SPDX-License-Identifier: Apache-2.0
"""Metrics of the packet path's flows: how full the table is, and what single service ports do.

``packet_state`` makes the readings; ``metrics`` serves them. Service ports with metrics of their
own are few (``--bpf-service-metrics``): a cluster may have ten thousand.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple

from kubeproxy_bpf.metering import Family

_LABELS = ("namespace", "service", "port", "protocol", "family")


class ServiceReading(NamedTuple):
    """What became of the packets to one service port."""

    labels: tuple[str, str, str, str, str]
    """Namespace, name, port name, protocol, family."""
    flows: int
    snat_exhausted: int
    rejected: int


class FlowReading(NamedTuple):
    """The flows of one moment."""

    entries: int = 0
    """As the last sweep met them."""
    capacity: int = 0
    """0: there is no packet path."""
    removed: int = 0
    services: tuple[ServiceReading, ...] = ()


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
    for field, text in (
        ("flows", "New flows to a service port by packet"),
        ("snat_exhausted", "New flows refused since no source port was free for the backend"),
        ("rejected", "Packets to a service port that were refused or dropped"),
    ):
        yield Family(
            f"kubeproxy_bpf_service_{field}_total",
            "counter",
            text,
            _LABELS,
            {service.labels: getattr(service, field) for service in reading.services},
        )
