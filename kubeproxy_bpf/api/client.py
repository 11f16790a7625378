# SPDX-License-Identifier: Apache-2.0
"""Requests to the API server: transport, TLS, authentication, errors.

GET gives a stream; the little that the proxy writes (events) is sent whole. A response is handed
out only after its status was checked. Dead peers are noticed by the kernel (keepalive,
TCP_USER_TIMEOUT), silent ones by the caller's read time-out. Retrying is the caller's business,
except for one repetition with renewed credentials after a 401.
"""

from __future__ import annotations

import asyncio
import os
import platform
import socket
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, AsyncIterator, Mapping, NamedTuple, Sequence
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.connector import AddrInfoType

from kubeproxy_bpf import __version__
from kubeproxy_bpf.api.clock import Clock, SystemClock
from kubeproxy_bpf.api.credentials import Connection, Credentials
from kubeproxy_bpf.api.decode import parse_status
from kubeproxy_bpf.api.meters import NO_ANSWER, RestMeters
from kubeproxy_bpf.api.proxies import Proxies
from kubeproxy_bpf.api.status import StatusError, parse_retry_after, status_error

Params = Sequence[tuple[str, str]]

USER_AGENT = f"kube-proxy-bpf/{__version__} (linux/{platform.machine()})"
CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 60.0
"""From the request to the head of the answer, which a watch sends before its first event."""
KEEPALIVE_IDLE_S = 15
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_PROBES = 3
USER_TIMEOUT_MS = 30_000
WATCH = ("watch", "true")
WRITE_TIMEOUT_S = 10.0
ERROR_BODY_TIMEOUT_S = 5.0
"""For the whole body of an error; what has not come by then is not worth a blocked watch."""
_ERROR_BODY_BYTES = 65_536
_ECHO_BYTES = 1 << 20
"""Of what the server answers to a write; nobody reads it, but what is read whole is done with."""
_GOOD = {"GET": (200,), "POST": (200, 201, 202), "PATCH": (200, 201)}


def keepalive_socket(info: AddrInfoType) -> socket.socket:
    """A socket that fails within about 30 s once its peer is unreachable, sending or not."""
    family, kind, protocol, _, _ = info
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    except OSError:
        sock.close()
        raise
    return sock


def _session(force_close: bool) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=keepalive_socket, force_close=force_close),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
        read_bufsize=2**18,
    )


class _Request(NamedTuple):
    """What is sent once, and once more when the credentials have to be renewed."""

    method: str
    path: str
    params: Params
    headers: Mapping[str, str]
    body: bytes | None
    read_timeout_s: float
    anew: bool = False


class ApiClient:
    """Use as an async context manager, after ``credentials.load()``."""

    def __init__(
        self,
        credentials: Credentials,
        clock: Clock | None = None,
        meters: RestMeters | None = None,
    ) -> None:
        self._credentials = credentials
        self._clock = clock or SystemClock()
        self.meters = meters or RestMeters()
        self._session: aiohttp.ClientSession | None = None
        self._anew: aiohttp.ClientSession | None = None
        """Each of its requests has a connection of its own."""
        self._proxies = Proxies(os.environ)
        self.answered = False
        """Whether the API server has answered anything yet, be it with an error."""
        self._host = ""
        """Of the API server, with its port as configured: a label of metrics."""

    @property
    def connection(self) -> Connection:
        """Where the API server is, as of the last request."""
        return self._credentials.connection

    async def __aenter__(self) -> ApiClient:
        self._session = _session(force_close=False)
        self._anew = _session(force_close=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._session is not None and self._anew is not None
        await self._session.close()
        await self._anew.close()

    @asynccontextmanager
    async def get(
        self,
        path: str,
        params: Params,
        read_timeout_s: float,
        compressed: bool = False,
        anew: bool = False,
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """The body of a successful answer; StatusError for any other.

        ``read_timeout_s`` limits the silence between two pieces of the body, not the whole;
        ``anew``: by a new connection, hence perhaps to another server behind the same address.
        """
        # Lists shrink to a seventh; the API server does not compress watches.
        headers = {"Accept-Encoding": "gzip" if compressed else "identity"}
        request = _Request("GET", path, params, headers, None, read_timeout_s, anew)
        async with self._answer(request) as response:
            yield response.content

    async def write(self, method: str, path: str, body: object, media: str) -> None:
        """Send an object, or a patch of some media type; StatusError unless the server took it."""
        headers = {"Content-Type": media}
        content = msgspec.json.encode(body)
        request = _Request(method, path, (), headers, content, WRITE_TIMEOUT_S)
        async with self._answer(request) as response:
            await read_whole(response.content, _ECHO_BYTES)

    def without_secrets(self, text: str) -> str:
        """Text for a log; a server may repeat in its errors what it was sent."""
        return self._credentials.without_secrets(text)

    @asynccontextmanager
    async def _answer(self, request: _Request) -> AsyncIterator[aiohttp.ClientResponse]:
        begin = self._clock.monotonic()
        response = await self._send(request)
        if response.status == 401:
            response.close()
            self.meters.repeated(request.method, self._host, 401)
            await self._credentials.renew()
            response = await self._send(request)
        try:
            if response.status not in _GOOD[request.method]:
                raise await self._error(response)
            yield response
        finally:
            if WATCH not in request.params:
                seconds = self._clock.monotonic() - begin
                size = response.content.total_bytes
                sent = len(request.body or b"")
                self.meters.finished(request.method, self._host, seconds, size, sent)
            # A body that was not read to its end (a watch has none) makes the connection useless.
            if not response.content.at_eof():
                response.close()
            response.release()

    async def _send(self, request: _Request) -> aiohttp.ClientResponse:
        session = self._anew if request.anew else self._session
        assert session is not None, "used outside of its context"
        connection = await self._credentials.current()
        headers = dict(request.headers)
        if connection.authorization:
            headers["Authorization"] = connection.authorization
        options: dict[str, Any] = {}
        if connection.host.startswith("https"):
            options["ssl"] = self._credentials.tls()
        options["timeout"] = aiohttp.ClientTimeout(
            sock_connect=CONNECT_TIMEOUT_S, sock_read=request.read_timeout_s
        )
        code: int | str = NO_ANSWER
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                response = await session.request(
                    request.method,
                    connection.host + request.path,
                    params=list(request.params),
                    data=request.body,
                    headers=headers,
                    proxy=connection.proxy or self._proxies.for_url(connection.host),
                    server_hostname=connection.tls_server_name,
                    allow_redirects=False,
                    **options,
                )
            code = response.status
            self.answered = True
            return response
        finally:
            self._host = urlsplit(connection.host).netloc.rpartition("@")[2]
            self.meters.answered(request.method, self._host, code)

    async def _error(self, response: aiohttp.ClientResponse) -> StatusError:
        body = await _error_body(response.content)
        retry_after_s = parse_retry_after(response.headers.get("Retry-After"), self._clock.wall())
        if retry_after_s is not None:
            # The caller will: a server that names a time is asked again.
            self.meters.repeated(response.method, self._host, response.status)
        return status_error(
            response.status, response.reason or "", parse_status(body), retry_after_s
        )


async def read_whole(content: aiohttp.StreamReader, limit: int) -> bytes | None:
    """A body to its end; None if it is longer than that, whatever was announced."""
    body = bytearray()
    async for piece in content.iter_any():
        body += piece
        if len(body) > limit:
            return None
    return bytes(body)


async def _error_body(content: aiohttp.StreamReader) -> bytes:
    """All of it up to a limit; nothing when it does not come, since the status says enough."""
    body = bytearray()
    try:
        async with asyncio.timeout(ERROR_BODY_TIMEOUT_S):
            while len(body) < _ERROR_BODY_BYTES and not content.at_eof():
                body += await content.read(_ERROR_BODY_BYTES - len(body))
    except (aiohttp.ClientError, OSError):
        return b""
    return bytes(body)
