# SPDX-License-Identifier: Apache-2.0
"""/healthz and /livez over HTTP (parity/http.md): what kubelets and load balancers ask."""

from __future__ import annotations

from typing import Any, Callable, NoReturn

import msgspec
from aiohttp import web

from kubeproxy_bpf.serve.health import Health
from kubeproxy_bpf.serve.listener import serve


class HealthServer:
    """Serves a ``Health`` until cancelled."""

    def __init__(self, health: Health, host: str, port: int) -> None:
        self._health = health
        self._host = host
        self._port = port

    async def run(self) -> NoReturn:
        """Serve for ever."""
        app = web.Application()
        app.router.add_route("*", "/healthz", _answer(self._health.healthz))
        app.router.add_route("*", "/livez", _answer(self._health.livez))
        await serve(app, "health", self._host, self._port)


def _answer(report: Callable[[], tuple[int, dict[str, Any]]]) -> Any:
    async def answer(_request: web.Request) -> web.Response:
        status, body = report()
        return web.Response(
            status=status,
            body=msgspec.json.encode(body),
            headers={"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"},
        )

    return answer
