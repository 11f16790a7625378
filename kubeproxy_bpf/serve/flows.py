# SPDX-License-Identifier: Apache-2.0
"""Metrics of the packet path's flows: how full the table is, and what single service ports do.

``packet_state`` makes the readings; ``metrics`` serves them. Service ports with metrics of their
own are few (``--bpf-service-metrics``): a cluster may have ten thousand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterable, NamedTuple

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_MAP = "flows"
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


def families(reading: FlowReading) -> Iterable[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    if not reading.capacity:
        return
    for name, text, value in (
        ("entries", "Entries of a BPF map that are in use", reading.entries),
        ("capacity", "Entries that a BPF map has room for", reading.capacity),
    ):
        gauge = GaugeMetricFamily(f"kubeproxy_bpf_map_{name}", text, labels=["map"])
        gauge.add_metric([_MAP], value)
        yield gauge
    yield CounterMetricFamily(
        "kubeproxy_bpf_flows_swept", "Dead flow entries that the sweep removed", reading.removed
    )
    for field, text in (
        ("flows", "New flows to a service port by packet"),
        ("snat_exhausted", "New flows refused since no source port was free for the backend"),
        ("rejected", "Packets to a service port that were refused or dropped"),
    ):
        counter = CounterMetricFamily(f"kubeproxy_bpf_service_{field}", text, labels=_LABELS)
        for service in reading.services:
            counter.add_metric(service.labels, getattr(service, field))
        yield counter
