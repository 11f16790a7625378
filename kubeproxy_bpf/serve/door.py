# SPDX-License-Identifier: Apache-2.0
"""So many connections and no more: whoever comes last is let in, who was there longest has to go.

The health server and those of Services answer everybody who reaches the node. Connections that say
nothing, or a byte a minute, would else take descriptors and memory for ever; and a server that let
nobody in any more would keep out the kubelet, whose question takes a millisecond. Called by
``listener`` and ``service_health``.
"""

from __future__ import annotations

import asyncio
import logging
import socket

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

CONNECTIONS = 256
"""Of each listener."""
_BACKLOG = 512
_SETTLED_S = 1.0
"""After this time a connection without a transport is over, and not just about to begin."""


class _Blameless(logging.Filter):
    """Keeps out what clients did wrong: anybody could fill the log, with a page per request."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


logging.getLogger("aiohttp.server").addFilter(_Blameless())


async def open_door(
    runner: web.AppRunner, listener: socket.socket, most: int = CONNECTIONS
) -> asyncio.Server:
    """Let clients in to a runner that is set up; to be closed before the runner is."""
    server = runner.server
    assert server is not None, "the runner is not set up"
    loop = asyncio.get_running_loop()
    return await loop.create_server(_Door(server, most), sock=listener, backlog=_BACKLOG)


class _Door:
    """Makes the protocol of each connection, as asyncio asks for it."""

    def __init__(self, server: web.Server, most: int) -> None:
        self._server = server
        self._most = most
        self._inside: dict[web.RequestHandler, float] = {}
        """Who came when, in this order; some may have gone."""

    def __call__(self) -> web.RequestHandler:
        now = asyncio.get_running_loop().time()
        if len(self._inside) >= self._most:
            self._forget_gone(now)
        if len(self._inside) >= self._most:
            self._show_out()
        handler = self._server()
        self._inside[handler] = now
        return handler

    def _forget_gone(self, now: float) -> None:
        for handler, came in list(self._inside.items()):
            if handler.transport is None and now - came >= _SETTLED_S:
                del self._inside[handler]

    def _show_out(self) -> None:
        for handler in self._inside:
            if isinstance(handler.transport, asyncio.WriteTransport):
                del self._inside[handler]
                handler.transport.abort()
                return
