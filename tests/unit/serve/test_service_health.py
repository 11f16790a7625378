# SPDX-License-Identifier: Apache-2.0
"""Health checks of Services over real sockets: the bytes that load balancers read."""

import asyncio
import contextlib
import gc
import resource
import socket

import aiohttp
import pytest

from kubeproxy_bpf.api.objects import ObjectKey
from kubeproxy_bpf.model.health import HealthCheck
from kubeproxy_bpf.model.types import Family
from kubeproxy_bpf.serve import listener
from kubeproxy_bpf.serve.service_health import ServiceHealth
from tests.unit.serve.test_healthz import fetch, free_port

WEB = ObjectKey("shop", "web")
BODY = (
    b'{\n\t"service": {\n\t\t"namespace": "shop",\n\t\t"name": "web"\n\t},\n'
    b'\t"localEndpoints": 2,\n\t"serviceProxyHealthy": true\n}'
)


class Rig:
    """Health checks that may be healthy or not, and what failed."""

    def __init__(self):
        self.healthy = True
        self.failed = []
        self.port = free_port()
        self.servers = ServiceHealth(
            lambda: self.healthy, lambda check, error: self.failed.append((check.family, error))
        )

    async def want(self, count, *families, service=WEB, port=0):
        checks = [HealthCheck(service, family, port or self.port, count) for family in families]
        self.servers.want(service, checks)
        await self.servers.settle()

    async def ask(self, host="127.0.0.1", path="/", method="GET", port=0):
        async with aiohttp.ClientSession() as session:
            url = f"http://{host}:{port or self.port}{path}"
            async with session.request(method, url) as answer:
                return answer.status, answer.headers, await answer.read()

    async def refuses(self, host="127.0.0.1"):
        with pytest.raises(aiohttp.ClientConnectorError):
            await self.ask(host)
        return True


@pytest.fixture
async def rig():
    rig = Rig()
    yield rig
    await rig.servers.close()


async def test_the_answer_is_that_of_kube_proxy(rig):
    """Body, weight and headers, byte for byte, for any path and method."""
    await rig.want(2, Family.IPV4)
    for path, method in (("/", "GET"), ("/healthz", "POST"), ("/a/b?c", "DELETE")):
        status, headers, body = await rig.ask(path=path, method=method)
        assert (200, BODY) == (status, body)
        assert "application/json" == headers["Content-Type"]
        assert "nosniff" == headers["X-Content-Type-Options"]
        assert "2" == headers["X-Load-Balancing-Endpoint-Weight"]
        assert "Server" not in headers


@pytest.mark.parametrize(("count", "healthy"), [(0, True), (2, False), (0, False)])
async def test_no_endpoint_or_no_health_is_503(rig, count, healthy):
    """The weight is sent with a 503 too."""
    await rig.want(count, Family.IPV4)
    rig.healthy = healthy
    status, headers, body = await rig.ask()
    assert (503, str(count)) == (status, headers["X-Load-Balancing-Endpoint-Weight"])
    expected = BODY.replace(b": 2", b": %d" % count)
    assert expected.replace(b"true", b"true" if healthy else b"false") == body


async def test_a_family_without_cluster_ip_is_refused(rig):
    """An IPv4 Service is not served on the node's IPv6 addresses, and the other way round."""
    await rig.want(1, Family.IPV4)
    assert 200 == (await rig.ask())[0] and await rig.refuses("[::1]")
    await rig.want(1, Family.IPV6)
    assert 200 == (await rig.ask("[::1]"))[0] and await rig.refuses()
    await rig.want(1, Family.IPV4, Family.IPV6)
    assert 200 == (await rig.ask())[0] == (await rig.ask("[::1]"))[0]


async def test_nothing_changes_before_it_is_settled(rig):
    """A count is told only when it is programmed; the socket stays open over it."""
    await rig.want(1, Family.IPV4)
    rig.servers.want(WEB, [HealthCheck(WEB, Family.IPV4, rig.port, 2)])
    assert "1" == (await rig.ask())[1]["X-Load-Balancing-Endpoint-Weight"]
    await rig.servers.settle()
    assert BODY == (await rig.ask())[2]


async def test_a_service_that_needs_none_is_closed(rig):
    """Connections are refused afterwards, and standing ones end."""
    await rig.want(1, Family.IPV4)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"HTTP/1.1 200 OK\r\n" == await reader.readline()
    await rig.want(1)
    assert await rig.refuses()
    await reader.read()
    assert reader.at_eof()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("rounds", range(6))
async def test_who_comes_while_it_closes_does_not_wait(rig, rounds):
    """Whatever the event loop was about when a client connected, its connection ends."""

    def closed_by_peer(client):
        with contextlib.suppress(ConnectionResetError):
            return client.recv(1) == b""
        return True

    await rig.want(1, Family.IPV4)
    # What nobody closes must not be closed by chance, when garbage is collected.
    gc.disable()
    try:
        with socket.create_connection(("127.0.0.1", rig.port), timeout=5) as client:
            for _ in range(rounds):
                await asyncio.sleep(0)
            await rig.want(1)
            assert await asyncio.to_thread(closed_by_peer, client)
    finally:
        gc.enable()


async def test_ports_change_hands_in_one_step(rig):
    """A Service may take the port that another one leaves at the same time."""
    other = ObjectKey("shop", "other")
    await rig.want(1, Family.IPV4)
    rig.servers.want(other, [HealthCheck(other, Family.IPV4, rig.port, 3)])
    rig.servers.want(WEB, [])
    await rig.servers.settle()
    assert b'"other"' in (await rig.ask())[2]
    assert not rig.failed


async def test_a_taken_port_is_tried_again_at_the_next_sync(rig):
    """It is told each time, and once it is free the Service is served."""
    with socket.create_server(("0.0.0.0", rig.port)):
        await rig.want(1, Family.IPV4, Family.IPV6)
        assert [Family.IPV4] == [family for family, _ in rig.failed]
        assert 200 == (await rig.ask("[::1]"))[0]
        await rig.servers.settle()
        assert 2 == len(rig.failed)
    await rig.servers.settle()
    assert 200 == (await rig.ask())[0]
    await rig.servers.settle()
    assert 2 == len(rig.failed)


async def test_a_failure_on_one_address_opens_none(rig):
    """Half a server would hide that the other half is missing."""
    rig.servers.listen_on({Family.IPV4: ["127.0.0.1", "127.0.0.2"]})
    with socket.create_server(("127.0.0.2", rig.port)):
        await rig.want(1, Family.IPV4)
        assert await rig.refuses()
    assert 1 == len(rig.failed)


async def test_only_some_addresses_are_listened_on(rig):
    """nodePortAddresses; what is added or goes later is followed, and none is possible."""
    rig.servers.listen_on({Family.IPV4: ["127.0.0.2"]})
    await rig.want(1, Family.IPV4, Family.IPV6)
    assert 200 == (await rig.ask("127.0.0.2"))[0] == (await rig.ask("[::1]"))[0]
    assert await rig.refuses("127.0.0.1")
    rig.servers.listen_on({Family.IPV4: ["127.0.0.1"]})
    await rig.servers.settle()
    assert 200 == (await rig.ask("127.0.0.1"))[0] and await rig.refuses("127.0.0.2")
    rig.servers.listen_on({Family.IPV4: []})
    await rig.servers.settle()
    assert await rig.refuses("127.0.0.1") and not rig.failed
    rig.servers.listen_on({Family.IPV4: None})
    await rig.servers.settle()
    assert 200 == (await rig.ask("127.0.0.3"))[0]


async def test_a_taken_port_is_tried_again_without_a_sync(rig, monkeypatch):
    """A proxy that is being replaced may hold the port, and nothing may change for hours."""
    monkeypatch.setattr(listener, "RETRY_S", 0.02)
    rig.servers.want(WEB, [HealthCheck(WEB, Family.IPV4, rig.port, 1)])
    task = asyncio.create_task(rig.servers.run())
    try:
        with socket.create_server(("0.0.0.0", rig.port)):
            rig.servers.synced()
            async with asyncio.timeout(10):
                while len(rig.failed) < 3:
                    await asyncio.sleep(0.01)
        url = f"http://127.0.0.1:{rig.port}"
        assert BODY.replace(b": 2", b": 1") == await fetch(url, lambda answer: answer.read())
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await rig.refuses()


async def test_as_many_sockets_as_are_allowed(rig):
    """One for each Service and family; the usual soft limit ends at a thousand files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    task = asyncio.create_task(rig.servers.run())
    try:
        await asyncio.sleep(0)
        assert min(hard, 1 << 20) == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
