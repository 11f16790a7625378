# SPDX-License-Identifier: Apache-2.0
"""The metrics server: /metrics, /metrics/slis and /healthz, and whatever pages it is given.

What is shown is read when somebody asks, by a function that ``app`` gives; it is made into text in
a thread, as that takes milliseconds.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from typing import Awaitable, Callable, Iterable, Mapping, NoReturn

from aiohttp import web

from kubeproxy_bpf.metering import Family
from kubeproxy_bpf.serve.exposition import render
from kubeproxy_bpf.serve.listener import BindFailed, serve
from kubeproxy_bpf.serve.metrics_health import CheckMeters
from kubeproxy_bpf.serve.mux import Handler, Mux, application, text


class MetricsServer:
    """Serves metrics in the Prometheus formats until cancelled."""

    def __init__(
        self,
        read: Callable[[], Awaitable[Iterable[Family]]],
        host: str,
        port: int,
        *,
        pages: Mapping[str, Handler] | None = None,
        prefixes: Mapping[str, Handler] | None = None,
        hard_fail: Callable[[BindFailed], None] | None = None,
    ) -> None:
        """``pages`` and ``prefixes`` are served too, see ``mux``, before those of this module."""
        self._read = read
        self._host = host
        self._port = port
        self._checks = CheckMeters()
        own = {
            "/metrics": self._metrics,
            "/metrics/slis": self._slis,
            "/healthz": self._healthz,
            "/healthz/ping": self._ping,
        }
        self._mux = Mux({**own, **(pages or {})}, prefixes)
        self._hard_fail = hard_fail

    async def run(self) -> NoReturn:
        """Serve for ever."""
        await serve(
            application(self._mux.answer), "metrics", self._host, self._port, self._hard_fail
        )

    async def _metrics(self, request: web.Request) -> web.Response:
        return await _rendered(await self._read(), request)

    async def _slis(self, request: web.Request) -> web.Response:
        if request.method == "DELETE":
            self._checks.reset()
            return text("metrics reset\n")
        return await _rendered(tuple(self._checks.families()), request, process=False)

    async def _healthz(self, request: web.Request) -> web.Response:
        """One check, that somebody answers; asked for, the list of checks."""
        excluded = request.query.getall("exclude", [])
        lines = []
        if "ping" in excluded:
            lines.append("[+]ping excluded: ok\n")
        else:
            self._checks.passed("ping", "healthz")
            lines.append("[+]ping ok\n")
        if unknown := ", ".join(f'"{name}"' for name in excluded if name != "ping"):
            lines.append(f"warn: some health checks cannot be excluded: no matches for {unknown}\n")
        if "verbose" not in request.query:
            return text("ok")
        return text("".join(lines) + "healthz check passed\n")

    async def _ping(self, _request: web.Request) -> web.Response:
        return text("ok")


async def _rendered(
    families: Iterable[Family], request: web.Request, process: bool = True
) -> web.Response:
    accept = request.headers.get("Accept", "")
    # As Go's handler: a scrape of all nodes is a tenth of the traffic then.
    compressed = _takes_gzip(request.headers.get("Accept-Encoding", ""))
    body, headers = await asyncio.to_thread(_page, families, accept, compressed, process)
    return web.Response(body=body, headers=headers)


def _takes_gzip(accepted: str) -> bool:
    """Whether a list of encodings names gzip, and not to rule it out (RFC 9110, 12.5.3)."""
    for part in accepted.lower().split(","):
        name, _, quality = part.replace(" ", "").partition(";q=")
        if name == "gzip":
            return not re.fullmatch(r"0(\.0*)?", quality)
    return False


def _page(
    families: Iterable[Family], accept: str, compressed: bool, process: bool
) -> tuple[bytes, dict[str, str]]:
    body, content_type = render(families, accept, process)
    headers = {"Content-Type": content_type}
    if compressed:
        body = gzip.compress(body, 1, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return body, headers
