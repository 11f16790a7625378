# SPDX-License-Identifier: Apache-2.0
"""A small server for each healthCheckNodePort: has this node endpoints of the Service, or none?

Outside load balancers ask it before they send traffic of a Service with externalTrafficPolicy Local
to this node. One server for each Service and family, opened and closed when a sync has ended, so
that nobody is told of an endpoint before it is programmed. What to answer comes from
``model.health`` by way of ``sync``; where to listen from ``feed``. Built by ``status``.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from typing import Callable, Collection, Iterable, Mapping, NamedTuple, NoReturn

import structlog
from aiohttp import web

from kubeproxy_bpf.api.objects import ObjectKey
from kubeproxy_bpf.model.health import HealthCheck
from kubeproxy_bpf.model.types import Family
from kubeproxy_bpf.serve import listener
from kubeproxy_bpf.serve.door import open_door
from kubeproxy_bpf.serve.listener import SHUTDOWN_S, host_port
from kubeproxy_bpf.serve.mux import application, json

_FAMILIES = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_EVERYWHERE = {Family.IPV4: ("0.0.0.0",), Family.IPV6: ("::",)}
_WEIGHT = "X-Load-Balancing-Endpoint-Weight"
_FILES_MAX = 1 << 20
_HANDOVER_ROUNDS = 3
"""Of the event loop: the task that makes a connection, its transport, its protocol."""
_log = structlog.get_logger(__name__)


class _Place(NamedTuple):
    """What a server stands for; if it changes, another server takes its place."""

    service: ObjectKey
    family: Family
    port: int
    hosts: tuple[str, ...]


class _Server:
    """Answers for one Service in one family."""

    def __init__(self, check: HealthCheck, healthy: Callable[[], bool]) -> None:
        self.check = check
        self._healthy = healthy
        app = application(self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        self._listeners: list[socket.socket] = []
        self._doors: list[asyncio.Server] = []

    async def open(self, place: _Place) -> None:
        """Listen on all addresses, or on none and raise OSError."""
        await self._runner.setup()
        try:
            for host in place.hosts:
                # For one family alone: "::" leaves IPv4 to a server of its own.
                bound = socket.create_server((host, place.port), family=_FAMILIES[place.family])
                self._doors.append(await open_door(self._runner, bound))
                self._listeners.append(bound)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Refuse connections from now on, and end those that stand."""
        # A connection that asyncio has accepted and not yet handed over is forgotten by a server
        # that closes at this moment, and its client would wait: first none is accepted any more,
        # then those under way are handed over.
        loop = asyncio.get_running_loop()
        for bound in self._listeners:
            loop.remove_reader(bound)
        self._listeners.clear()
        for _ in range(_HANDOVER_ROUNDS):
            await asyncio.sleep(0)
        for door in self._doors:
            door.close()
        self._doors.clear()
        await self._runner.cleanup()

    async def _answer(self, _request: web.Request) -> web.Response:
        """The same for every path and method."""
        count = self.check.local_endpoints
        healthy = self._healthy()
        status = 200 if count and healthy else 503
        return json(_body(self.check, healthy), status, {_WEIGHT: str(count)})


def _raise_file_limit() -> None:
    """As many sockets as we may have. Go's programs begin with that; the usual limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Programs that we start inherit it, and some of them look at every number below it.
    wanted = _FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, _FILES_MAX)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _body(check: HealthCheck, healthy: bool) -> bytes:
    """As kube-proxy lays it out: some who ask compare text."""
    return (
        "{\n"
        '\t"service": {\n'
        f'\t\t"namespace": "{check.service.namespace}",\n'
        f'\t\t"name": "{check.service.name}"\n'
        "\t},\n"
        f'\t"localEndpoints": {check.local_endpoints},\n'
        f'\t"serviceProxyHealthy": {"true" if healthy else "false"}\n'
        "}"
    ).encode()


class ServiceHealth:
    """All of these servers. Told what is wanted at any time; ``run`` acts after each sync."""

    def __init__(
        self, healthy: Callable[[], bool], failed: Callable[[HealthCheck, OSError], None]
    ) -> None:
        """``healthy`` is that of /livez; ``failed`` hears of ports that cannot be had."""
        self._healthy = healthy
        self._failed = failed
        self._hosts: dict[Family, tuple[str, ...]] = dict(_EVERYWHERE)
        self._wanted: dict[tuple[ObjectKey, Family], HealthCheck] = {}
        self._unsettled: dict[tuple[ObjectKey, Family], None] = {}
        self._servers: dict[tuple[ObjectKey, Family], tuple[_Place, _Server]] = {}
        self._failing: dict[tuple[ObjectKey, Family], _Place] = {}
        self._due = asyncio.Event()

    def want(self, service: ObjectKey, checks: Iterable[HealthCheck]) -> None:
        """From the next ``settle`` on answer these checks for the Service, and no others."""
        found = {check.family: check for check in checks}
        for family in Family:
            key = service, family
            check = found.get(family)
            if check == self._wanted.get(key):
                continue
            if check is None:
                del self._wanted[key]
            else:
                self._wanted[key] = check
            self._unsettled[key] = None

    def listen_on(self, hosts: Mapping[Family, Collection[str] | None]) -> None:
        """Listen on these addresses of the node, or on all where None."""
        for family, some in hosts.items():
            places = _EVERYWHERE[family] if some is None else tuple(sorted(some))
            if places != self._hosts[family]:
                self._hosts[family] = places
                standing = [key for key in self._servers if key[1] == family]
                self._unsettled.update(dict.fromkeys(standing))
                self._due.set()

    def synced(self) -> None:
        """What is wanted now is programmed too."""
        self._due.set()

    async def run(self) -> NoReturn:
        """Open and close for ever, beside the sync: thousands of sockets take a while."""
        _raise_file_limit()
        try:
            while True:
                await self._wait()
                self._due.clear()
                await self.settle()
        finally:
            await self.close()

    async def _wait(self) -> None:
        """For the next sync; where a port is taken not for long, as there may be none for hours."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(listener.RETRY_S if self._failing else None):
                await self._due.wait()

    async def settle(self) -> None:
        """Open and close what changed, and try again what failed the last time."""
        unsettled, self._unsettled = self._unsettled, {}
        moved = [key for key in unsettled if self._is_elsewhere(key)]
        # First all that go: one that comes may want the port of one that goes.
        await asyncio.gather(*(self._servers.pop(key)[1].close() for key in moved))
        for key in unsettled:
            check = self._wanted.get(key)
            if check is None:
                self._failing.pop(key, None)
            elif key in self._servers:
                self._servers[key][1].check = check
            else:
                await self._open(key, check)

    async def close(self) -> None:
        """Close all."""
        servers, self._servers = self._servers, {}
        await asyncio.gather(*(server.close() for _, server in servers.values()))

    def _is_elsewhere(self, key: tuple[ObjectKey, Family]) -> bool:
        check = self._wanted.get(key)
        standing = self._servers.get(key)
        return standing is not None and (check is None or standing[0] != self._place(check))

    def _place(self, check: HealthCheck) -> _Place:
        return _Place(check.service, check.family, check.port, self._hosts[check.family])

    async def _open(self, key: tuple[ObjectKey, Family], check: HealthCheck) -> None:
        place, server = self._place(check), _Server(check, self._healthy)
        try:
            await server.open(place)
        except OSError as error:
            self._report(place, error, again=self._failing.get(key) == place)
            self._failed(check, error)
            self._failing[key] = place
            self._unsettled[key] = None
        else:
            self._failing.pop(key, None)
            self._servers[key] = place, server

    @staticmethod
    def _report(place: _Place, error: OSError, again: bool) -> None:
        """It is tried with each sync, and there may be many in a second: named once."""
        if not again:
            _log.error(
                "service_health_check_failed",
                service=f"{place.service.namespace}/{place.service.name}",
                addresses=[host_port(host, place.port) for host in place.hosts],
                error=str(error),
            )
