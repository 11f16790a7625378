# SPDX-License-Identifier: Apache-2.0
"""/metrics: what the dataplane does and what did not fit, read live when somebody asks.

``app`` gives the readings as a function; nothing is counted twice. The client library is imported
at the first request: it weighs 14 MB. The metrics of kube-proxy itself come with its full parity.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Callable, Iterable, Mapping, NamedTuple, NoReturn

from aiohttp import web

from kubeproxy_bpf.serve import devices, flows
from kubeproxy_bpf.serve.devices import DeviceReading
from kubeproxy_bpf.serve.flows import FlowReading
from kubeproxy_bpf.serve.listener import serve

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class Reading(NamedTuple):
    """The state behind the metrics at one moment."""

    verdicts: Mapping[str, int]
    """Decisions of the programs, by reason."""
    unfit: Mapping[str, int]
    """Service ports without room, by the map that is full."""
    refused_writes: int
    service_ports: int
    last_sync: float
    """Unix time; 0 before the first."""
    devices: DeviceReading = DeviceReading()
    flows: FlowReading = FlowReading()


class MetricsServer:
    """Serves readings in the Prometheus formats until cancelled."""

    def __init__(self, read: Callable[[], Reading], host: str, port: int) -> None:
        self._read = read
        self._host = host
        self._port = port

    async def run(self) -> NoReturn:
        """Serve for ever."""
        app = web.Application()
        app.router.add_get("/metrics", self._answer)
        app.router.add_route("*", "/healthz", _alive)
        await serve(app, "metrics", self._host, self._port)

    async def _answer(self, request: web.Request) -> web.Response:
        reading = self._read()
        accept = request.headers.get("Accept", "")
        body, content_type = await asyncio.to_thread(render, reading, accept)
        return web.Response(body=body, headers={"Content-Type": content_type})


def render(reading: Reading, accept: str = "") -> tuple[bytes, str]:
    """The reading as text, and its content type."""
    from prometheus_client.core import CollectorRegistry
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector

    class Once(Collector):
        def collect(self) -> Iterable[Metric]:
            return _families(reading)

    registry = CollectorRegistry()
    registry.register(Once())
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


def _families(reading: Reading) -> Iterable[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    verdicts = CounterMetricFamily(
        "kubeproxy_bpf_verdicts", "Decisions of the BPF programs, by reason", labels=["reason"]
    )
    for reason, count in reading.verdicts.items():
        verdicts.add_metric([reason], count)
    unfit = GaugeMetricFamily(
        "kubeproxy_bpf_service_ports_unfit",
        "Service ports that are not programmed because a map is full",
        labels=["map"],
    )
    for name, count in reading.unfit.items():
        unfit.add_metric([name], count)
    yield verdicts
    yield unfit
    yield CounterMetricFamily(
        "kubeproxy_bpf_refused_writes", "Map writes that the kernel refused", reading.refused_writes
    )
    yield GaugeMetricFamily(
        "kubeproxy_bpf_service_ports", "Service ports that are programmed", reading.service_ports
    )
    yield GaugeMetricFamily(
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "When all known changes were last programmed",
        reading.last_sync,
    )
    yield from devices.families(reading.devices)
    yield from flows.families(reading.flows)


async def _alive(_request: web.Request) -> web.Response:
    return web.Response(text="ok", headers={"X-Content-Type-Options": "nosniff"})
