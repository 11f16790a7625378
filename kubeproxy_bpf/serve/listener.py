# SPDX-License-Identifier: Apache-2.0
"""One HTTP listener for each of the servers: patient about its port, silent about requests.

A port that is taken is tried again every five seconds, since the proxy that is being replaced may
still hold it; traffic does not depend on it. Who wants the process to end instead
(bindAddressHardFail) says so. Called by ``healthz`` and ``metrics``.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Callable, NoReturn

import structlog
from aiohttp import web

from kubeproxy_bpf.errors import KubeProxyError
from kubeproxy_bpf.serve.door import open_door

RETRY_S = 5.0
SHUTDOWN_S = 1.0
"""So long an answer under way may hold up the end of the process."""
_log = structlog.get_logger(__name__)


class BindFailed(KubeProxyError):
    """A port that must be had cannot be had."""

    def __init__(self, what: str, address: str, cause: OSError) -> None:
        super().__init__(what, address, cause)
        self.what = what
        self.address = address
        self.cause = cause

    def __str__(self) -> str:
        return f"failed to start the {self.what} server on {self.address}: {self.cause}"


async def serve(
    app: web.Application,
    what: str,
    host: str,
    port: int,
    hard_fail: Callable[[BindFailed], None] | None = None,
) -> NoReturn:
    """Listen, also when the port becomes free only later, and serve for ever.

    Raises:
        BindFailed: the port cannot be had and ``hard_fail``, which hears of it first, is given.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    door = None
    try:
        listener = await _listen(what, host, port, hard_fail)
        door = await open_door(runner, listener)
        _log.info(f"{what}_served", address=host, port=port)
        while True:
            await asyncio.Event().wait()
    finally:
        if door is not None:
            door.close()
        await runner.cleanup()


async def _listen(
    what: str, host: str, port: int, hard_fail: Callable[[BindFailed], None] | None
) -> socket.socket:
    reported = False
    while True:
        try:
            return _bind(host, port)
        except OSError as error:
            if hard_fail is not None:
                failure = BindFailed(what, host_port(host, port), error)
                hard_fail(failure)
                raise failure from error
            if not reported:
                _log.warning(f"{what}_port_taken", address=host, port=port, error=str(error))
                reported = True
            await asyncio.sleep(RETRY_S)


def host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(host: str, port: int) -> socket.socket:
    """An unspecified IPv4 address listens on both families, as Go's "tcp" network does."""
    if host in ("0.0.0.0", "::") and socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)
