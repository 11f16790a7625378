# SPDX-License-Identifier: Apache-2.0
"""What others are told of this proxy: health, pages, health checks of Services, events.

``app`` makes one and tells it what happens; it starts the servers and never steers anything. What
is answered, and in which words, is decided in ``serve`` and ``events``.
"""

from __future__ import annotations

from datetime import datetime, timezone
from functools import partial
from typing import Any, Callable, Coroutine, Iterable, Iterator

from kubeproxy_bpf.api.client import ApiClient
from kubeproxy_bpf.api.recorder import Recorder
from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.config.validate import split_host_port
from kubeproxy_bpf.events import Events
from kubeproxy_bpf.model.cluster import Step
from kubeproxy_bpf.model.types import Family, family_of
from kubeproxy_bpf.serve.health import Health
from kubeproxy_bpf.serve.healthz import HealthServer
from kubeproxy_bpf.serve.listener import BindFailed
from kubeproxy_bpf.serve.metrics import MetricsServer
from kubeproxy_bpf.serve.pages import pages, prefixes
from kubeproxy_bpf.serve.service_health import ServiceHealth
from kubeproxy_bpf.telemetry import Telemetry

Work = tuple[str, Callable[[], Coroutine[Any, Any, Any]]]

COMPONENT = "kube-proxy"


class Status:
    """One for each process."""

    def __init__(self, config: Config, families: Iterable[Family]) -> None:
        self._config = config
        self.health = Health(
            tuple(f"IPv{int(family)}" for family in families),
            2 * config.sync_period_s,
            lambda: datetime.now(timezone.utc),
        )
        self._recorder = Recorder(COMPONENT, config.hostname)
        self.events = Events(self._recorder, config.hostname)
        self.service_health = ServiceHealth(
            lambda: self.health.healthy, self.events.health_check_failed
        )

    def tasks(self, client: ApiClient, telemetry: Telemetry) -> Iterator[Work]:
        """What has to run as long as the process does."""
        yield "event recorder", partial(self._recorder.run, client)
        yield "health checks of Services", self.service_health.run
        hard_fail: Callable[[BindFailed], None] | None = None
        if self._config.bind_address_hard_fail:
            hard_fail = self.events.server_failed
        if self._config.healthz_bind_address:
            host, port = split_host_port(self._config.healthz_bind_address)
            yield "health server", HealthServer(
                self.health, host, port, hard_fail, telemetry.health
            ).run
        host, port = split_host_port(self._config.metrics_bind_address)
        yield "metrics server", MetricsServer(
            telemetry.read,
            host,
            port,
            pages=pages(self._config),
            prefixes=prefixes(self._config),
            hard_fail=hard_fail,
        ).run

    async def finish(self, client: ApiClient) -> None:
        """Tell the cluster what is still to be told; why the process ends may be among it."""
        await self._recorder.finish(client)

    def taken(self, step: Step, known: bool = True) -> None:
        """A sync begins to program this; not ``known``: it is the memory of an earlier process,
        about which load balancers hear nothing."""
        concerned = {family_of(address) for address in step.changes.vips}
        concerned.update(Family(port.family) for port in step.changes.services)
        self.health.sync_begun({f"IPv{int(family)}" for family in concerned})
        for service, checks in step.health_checks.items() if known else ():
            self.service_health.want(service, checks)

    def synced(self, known: bool = True) -> None:
        """All that was taken is programmed."""
        self.health.sync_finished(known)
        if known:
            self.service_health.synced()
