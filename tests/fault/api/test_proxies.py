# SPDX-License-Identifier: Apache-2.0
"""The API server behind an HTTP proxy, as the environment names it; all of it real, on loopback."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import AsyncIterator

import pytest
import trustme

from kubeproxy_bpf.api.client import ApiClient
from kubeproxy_bpf.api.credentials import Credentials

from .scripted_server import ScriptedServer
from .test_authentication import SERVICES, write_kubeconfig

NAME = "api.example.test"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


class Proxy:
    """Leads every connection to one port of this machine, and writes down what was asked for."""

    def __init__(self) -> None:
        self.target = 0
        self.url = ""
        self.asked: list[str] = []
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = "http://127.0.0.1:%d" % self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n")[0].decode().split()
        self.asked.append(f"{method} {target}")
        behind, onwards = await asyncio.open_connection("127.0.0.1", self.target)
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                path = target.partition(f"//{NAME}:6443")[2]
                onwards.write(head.replace(target.encode(), path.encode(), 1))
            await asyncio.gather(_pass_on(reader, onwards), _pass_on(behind, writer))
        finally:
            onwards.close()
            writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    proxy = Proxy()
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()


async def ask(credentials: Credentials) -> None:
    await credentials.load()
    async with ApiClient(credentials) as client:
        async with client.get(SERVICES, [("limit", "1")], 5.0) as body:
            await body.read()


async def test_plain_http_goes_through_the_proxy(
    server: ScriptedServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that only the proxy can resolve is reached: the request was really its own."""
    proxy.target = server.port
    monkeypatch.setenv("http_proxy", proxy.url)

    await ask(Credentials(master=f"http://{NAME}:6443"))

    assert [f"GET http://{NAME}:6443{SERVICES}?limit=1"] == proxy.asked
    assert 1 == len(server.requests)


async def test_https_is_tunnelled_and_the_server_still_proves_itself(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The proxy sees a name and a port; the certificate is that of the API server."""
    authority, server = trustme.CA(), ScriptedServer()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(NAME).configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    await server.start(context)
    proxy.target = server.port
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    cluster = {"certificate-authority": "ca.crt"}
    config = write_kubeconfig(tmp_path / "config", f"https://{NAME}:6443", {}, cluster)

    try:
        await ask(Credentials(config))
    finally:
        await server.stop()

    assert [f"CONNECT {NAME}:6443"] == proxy.asked
    assert 1 == len(server.requests)


async def test_a_host_of_no_proxy_is_reached_directly(
    server: ScriptedServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks count, which aiohttp alone would not know: this machine is one of 0.0.0.0/8."""
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", "0.0.0.0/8")

    await ask(Credentials(master=f"http://0.0.0.0:{server.port}"))

    assert [] == proxy.asked
    assert 1 == len(server.requests)


async def test_the_kubeconfig_s_own_proxy_beats_the_environment(
    server: ScriptedServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """proxy-url belongs to the cluster, the variables to everything."""
    proxy.target = server.port
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    cluster = {"proxy-url": proxy.url}
    config = write_kubeconfig(tmp_path / "config", f"http://{NAME}:6443", {}, cluster)

    await ask(Credentials(config))

    assert 1 == len(proxy.asked)
