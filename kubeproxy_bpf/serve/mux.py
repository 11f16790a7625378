# SPDX-License-Identifier: Apache-2.0
"""Paths to answers as Go's servers have it: exact paths, any method, "404 page not found".

Clients, probes and scrape configurations were written against those servers. A path with a trailing
slash is another path. Used by ``healthz``, ``metrics`` and ``service_health``.
"""

from __future__ import annotations

from typing import Any, Awaitable, Callable, Mapping

import msgspec
from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

NOSNIFF = {"X-Content-Type-Options": "nosniff"}


class Mux:
    """Finds the handler of a request: the exact path first, then the longest prefix."""

    def __init__(
        self, exact: Mapping[str, Handler], prefixes: Mapping[str, Handler] | None = None
    ) -> None:
        self._exact = exact
        self._prefixes = sorted((prefixes or {}).items(), key=lambda item: -len(item[0]))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        return await self._handler(request.path)(request)

    def _handler(self, path: str) -> Handler:
        if path in self._exact:
            return self._exact[path]
        for prefix, handler in self._prefixes:
            if path.startswith(prefix):
                return handler
        return not_found


def application(handler: Handler) -> web.Application:
    """An application that gives every request to one handler."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    app.on_response_prepare.append(_anonymous)
    return app


async def not_found(_request: web.Request) -> web.Response:
    return text("404 page not found\n", 404)


def text(body: str, status: int = 200) -> web.Response:
    """Plain text that browsers must not take for anything else."""
    return web.Response(text=body, status=status, headers=NOSNIFF)


def json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """``value`` in the fewest bytes, or bytes that are JSON already."""
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    names = {"Content-Type": "application/json", **NOSNIFF, **(headers or {})}
    return web.Response(body=body, status=status, headers=names)


async def _anonymous(_request: web.Request, response: web.StreamResponse) -> None:
    """Nobody who may only look needs to know which library answers, and of which version."""
    response.headers.pop("Server", None)
