# SPDX-License-Identifier: Apache-2.0
"""What single service ports do: the counts of the programs, under the names of their owners.

Joins the maps of both objects with the planner's indexes. Built by ``app`` once the maps are open,
read by ``telemetry`` in a thread of its own.
"""

from __future__ import annotations

from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.dataplane.program import Programmer
from kubeproxy_bpf.dataplane.stats import ServiceCounts, StatsMap, TrafficMap, busiest
from kubeproxy_bpf.model.types import Protocol, ServicePortId
from kubeproxy_bpf.serve.services import ServiceReading, ServicesReading


class CountedServices:
    """The service ports with metrics of their own."""

    def __init__(
        self, config: Config, sockets: Datapath, packets: Datapath | None, programmer: Programmer
    ) -> None:
        """``packets``: None where the kernel refused the packet programs."""
        self._shown = config.service_metrics
        self._programmer = programmer
        self._stats = StatsMap(packets.maps["kpb_stats"], packets.btf) if packets else None
        self._traffic = None
        if config.service_traffic:
            self._traffic = TrafficMap(sockets.maps["kpb_traffic"], sockets.btf)

    def reading(self) -> ServicesReading:
        """The busiest of the moment."""
        chosen = []
        if self._shown:
            owners = self._programmer.owners
            chosen = busiest(owners, self._stats, self._traffic, self._shown)
        return ServicesReading(
            self._stats is not None,
            self._traffic is not None,
            tuple(_service(port, counts) for port, counts in chosen),
        )

    def close(self) -> None:
        """Let go of what is mapped; the maps are the instance's."""
        if self._stats is not None:
            self._stats.close()


def _service(port: ServicePortId, counts: ServiceCounts) -> ServiceReading:
    protocol = Protocol(port.protocol).name
    labels = port.namespace, port.name, port.port_name, protocol, f"IPv{port.family}"
    return ServiceReading(labels, *counts)
