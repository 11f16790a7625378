# SPDX-License-Identifier: Apache-2.0
"""Everything that /metrics shows: the meters that parts write to, and the parts that are read.

``app`` makes it first and hands its meters out; parts that can be read are set as they come to
life, so that a proxy that waits for another shows its metrics too. It formats nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Callable, Iterator

from kubeproxy_bpf.api.meters import RestMeters, SnapshotMeters
from kubeproxy_bpf.audit.meters import AuditMeters
from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.dataplane.program import Programmer
from kubeproxy_bpf.instance import Instance
from kubeproxy_bpf.metering import Family, gauge
from kubeproxy_bpf.meters import ConntrackMeters, HealthMeters, SyncMeters
from kubeproxy_bpf.packet_state import NoPacketState
from kubeproxy_bpf.serve import (
    devices,
    flows,
    metrics_datapath,
    metrics_kubernetes,
    metrics_process,
    services,
)
from kubeproxy_bpf.serve.flows import FlowReading
from kubeproxy_bpf.serve.metrics_datapath import DatapathReading, MapReading
from kubeproxy_bpf.service_counts import CountedServices
from kubeproxy_bpf.sync import SyncLoop
from kubeproxy_bpf.takeover.meters import TakeoverMeters
from kubeproxy_bpf.threads import in_thread


class Telemetry:
    """The metrics of one process."""

    def __init__(
        self, config: Config, ip_families: tuple[str, ...], waiting: Callable[[], bool]
    ) -> None:
        """``ip_families``: those that are served, as "IPv4"; ``waiting``: whether another process
        writes our maps."""
        self._gates = config.feature_gates
        self._waiting = waiting
        self.rest = RestMeters()
        self.snapshot = SnapshotMeters()
        self.sync = SyncMeters(ip_families)
        self.conntrack = ConntrackMeters()
        self.health = HealthMeters()
        self.takeover = TakeoverMeters()
        self.audit = AuditMeters()
        self._datapath: Callable[[], Iterator[Family]] | None = None
        self._reading = asyncio.Lock()

    def follow(
        self,
        instance: Instance,
        programmer: Programmer,
        sync: SyncLoop,
        packets: NoPacketState,
        counted: CountedServices,
    ) -> None:
        """The maps are open: from now on there is a datapath to be read."""

        def read() -> Iterator[Family]:
            yield from _datapath(instance, programmer, sync, packets)
            yield from services.families(counted.reading())

        self._datapath = read

    async def leave(self) -> None:
        """The maps are about to be closed."""
        async with self._reading:
            self._datapath = None

    async def read(self) -> tuple[Family, ...]:
        """All metrics of this moment but those of the client library; one reader at a time.

        In a thread: what single service ports did takes milliseconds to find where there are ten
        thousand of them.
        """
        async with self._reading:
            return await in_thread(lambda: tuple(self._families()))

    def _families(self) -> Iterator[Family]:
        rest = (self.rest, self.snapshot)
        for meters in (self.sync, self.health, self.conntrack, *rest, self.takeover, self.audit):
            yield from meters.families()
        yield from metrics_kubernetes.families(self._gates)
        yield from metrics_process.families()
        yield gauge(
            "kubeproxy_bpf_writer_waiting",
            "Whether another process writes the maps, so that this one waits",
            int(self._waiting()),
        )
        if self._datapath is not None:
            yield from self._datapath()


def _datapath(
    instance: Instance, programmer: Programmer, sync: SyncLoop, packets: NoPacketState
) -> Iterator[Family]:
    flow_reading = packets.reading()
    inspection = instance.inspection
    assert inspection is not None, "the instance is open"
    yield from metrics_datapath.families(
        DatapathReading(
            instance.verdicts(),
            inspection.hooks,
            {**_planned(programmer), **inspection.maps, **_flow_map(flow_reading)},
            Counter(sync.unfit.values()),
            programmer.planner.programmed,
            instance.sockets_aborted,
        )
    )
    yield from devices.families(instance.device_reading())
    yield from flows.families(flow_reading)


def _planned(programmer: Programmer) -> dict[str, MapReading]:
    """The maps that the planner fills; it knows what is in them."""
    both = zip(programmer.used, programmer.capacity, strict=True)
    readings = dict(zip(programmer.used._fields, (MapReading(*counts) for counts in both)))
    return {name: reading for name, reading in readings.items() if reading.capacity}


def _flow_map(reading: FlowReading) -> dict[str, MapReading]:
    """As the last sweep met it; nothing where there is no packet path."""
    return {"flows": MapReading(reading.entries, reading.capacity)} if reading.capacity else {}
