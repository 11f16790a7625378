# SPDX-License-Identifier: Apache-2.0
"""One HTTP listener for each of the servers: patient about its port, silent about requests.

A port that is taken is tried again every five seconds, since the proxy that is being replaced may
still hold it; traffic does not depend on it. Called by ``healthz`` and ``metrics``.
"""

from __future__ import annotations

import asyncio
import socket
from typing import NoReturn

import structlog
from aiohttp import web

RETRY_S = 5.0
_log = structlog.get_logger(__name__)


async def serve(app: web.Application, what: str, host: str, port: int) -> NoReturn:
    """Listen, also when the port becomes free only later, and serve for ever."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        listener = await _listen(what, host, port)
        await web.SockSite(runner, listener).start()
        _log.info(f"{what}_served", address=host, port=port)
        while True:
            await asyncio.Event().wait()
    finally:
        await runner.cleanup()


async def _listen(what: str, host: str, port: int) -> socket.socket:
    reported = False
    while True:
        try:
            return _bind(host, port)
        except OSError as error:
            if not reported:
                _log.warning(f"{what}_port_taken", port=port, error=str(error))
                reported = True
            await asyncio.sleep(RETRY_S)


def _bind(host: str, port: int) -> socket.socket:
    """An unspecified IPv4 address listens on both families, as Go's "tcp" network does."""
    if host in ("0.0.0.0", "::") and socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)
