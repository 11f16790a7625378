# SPDX-License-Identifier: Apache-2.0
"""Metrics of single service ports: what became of their packets, and what passes for them.

``service_counts`` makes the readings; ``telemetry`` joins them. Service ports with metrics of their
own are few (``--bpf-service-metrics``): a cluster may have ten thousand.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple

from kubeproxy_bpf.metering import Family

_LABELS = ("namespace", "service", "port", "protocol", "family")

BY_PACKET = {
    "flows": "New flows to a service port by packet",
    "snat_exhausted": "New flows refused since no source port was free for the backend",
    "rejected": "Packets to a service port that were refused or dropped",
}
"""Counted wherever there is a packet path."""
CONNECTIONS = {"connections": "Connections to a service port, of sockets and by packet"}
"""Counted where that is switched on."""
TRAFFIC = {
    "packets": "Packets to and from a service port on the packet path",
    "bytes": "Bytes to and from a service port on the packet path, from the IP header on",
}
"""Counted where both hold."""


class ServiceReading(NamedTuple):
    """What one service port did."""

    labels: tuple[str, str, str, str, str]
    """Namespace, name, port name, protocol, family."""
    flows: int
    snat_exhausted: int
    rejected: int
    connections: int
    packets: int
    bytes: int


class ServicesReading(NamedTuple):
    """The busiest service ports of one moment."""

    packet_path: bool = False
    traffic: bool = False
    """Whether connections, packets and bytes are counted."""
    services: tuple[ServiceReading, ...] = ()


def families(reading: ServicesReading) -> Iterator[Family]:
    """The reading as metrics; what nobody counts is not claimed to be zero."""
    wanted = {
        **(BY_PACKET if reading.packet_path else {}),
        **(CONNECTIONS if reading.traffic else {}),
        **(TRAFFIC if reading.packet_path and reading.traffic else {}),
    }
    for field, text in wanted.items():
        yield Family(
            f"kubeproxy_bpf_service_{field}_total",
            "counter",
            text,
            _LABELS,
            {service.labels: getattr(service, field) for service in reading.services},
        )
