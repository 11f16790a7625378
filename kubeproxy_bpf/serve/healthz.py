# SPDX-License-Identifier: Apache-2.0
"""/healthz and /livez over HTTP (parity/http.md): what kubelets and load balancers ask.

A port that is taken is tried again every five seconds, since the proxy that is being replaced may
still hold it; traffic does not depend on it.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Callable

import msgspec
import structlog
from aiohttp import web

from kubeproxy_bpf.serve.health import Health

_RETRY_S = 5.0
_log = structlog.get_logger(__name__)


class HealthServer:
    """Serves a ``Health`` until cancelled."""

    def __init__(self, health: Health, host: str, port: int) -> None:
        self._health = health
        self._host = host
        self._port = port

    async def run(self) -> None:
        """Listen, also when the port becomes free only later, and serve for ever."""
        runner = web.AppRunner(self._app(), access_log=None)
        await runner.setup()
        try:
            listener = await self._listen()
            await web.SockSite(runner, listener).start()
            _log.info("health_served", address=self._host, port=self._port)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/healthz", self._answer(self._health.healthz))
        app.router.add_route("*", "/livez", self._answer(self._health.livez))
        return app

    @staticmethod
    def _answer(report: Callable[[], tuple[int, dict[str, Any]]]) -> Any:
        async def answer(_request: web.Request) -> web.Response:
            status, body = report()
            return web.Response(
                status=status,
                body=msgspec.json.encode(body),
                headers={
                    "Content-Type": "application/json",
                    "X-Content-Type-Options": "nosniff",
                },
            )

        return answer

    async def _listen(self) -> socket.socket:
        reported = False
        while True:
            try:
                return _bind(self._host, self._port)
            except OSError as error:
                if not reported:
                    _log.warning("health_port_taken", port=self._port, error=str(error))
                    reported = True
                await asyncio.sleep(_RETRY_S)


def _bind(host: str, port: int) -> socket.socket:
    """An unspecified IPv4 address listens on both families, as Go's "tcp" network does."""
    if host in ("0.0.0.0", "::") and socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)
