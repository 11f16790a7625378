# SPDX-License-Identifier: Apache-2.0
"""/healthz, /livez and /readyz over HTTP: what kubelets and load balancers ask.

Every answer of the first two is counted in meters that ``metrics`` shows.
"""

from __future__ import annotations

from typing import Any, Callable, NoReturn

from aiohttp import web

from kubeproxy_bpf.metering import Counter
from kubeproxy_bpf.meters import HealthMeters
from kubeproxy_bpf.serve.health import Health
from kubeproxy_bpf.serve.listener import BindFailed, serve
from kubeproxy_bpf.serve.mux import Handler, Mux, application, json


class HealthServer:
    """Serves a ``Health`` until cancelled."""

    def __init__(
        self,
        health: Health,
        host: str,
        port: int,
        hard_fail: Callable[[BindFailed], None] | None = None,
        meters: HealthMeters | None = None,
    ) -> None:
        self._health = health
        self._host = host
        self._port = port
        self._hard_fail = hard_fail
        self._meters = meters or HealthMeters()

    async def run(self) -> NoReturn:
        """Serve for ever."""
        mux = Mux(
            {
                "/healthz": _answer(self._health.healthz, self._meters.healthz),
                "/livez": _answer(self._health.livez, self._meters.livez),
                "/readyz": _answer(self._health.readyz),
            }
        )
        await serve(application(mux.answer), "health", self._host, self._port, self._hard_fail)


def _answer(
    report: Callable[[], tuple[int, dict[str, Any]]], count: Counter | None = None
) -> Handler:
    async def answer(_request: web.Request) -> web.Response:
        status, body = report()
        if count is not None:
            count.inc(str(status))
        return json(body, status)

    return answer
