# SPDX-License-Identifier: Apache-2.0
"""/healthz and /livez over a real socket."""

import asyncio
import socket
from contextlib import asynccontextmanager
from datetime import datetime, timezone

import aiohttp
import pytest

from kubeproxy_bpf.api.objects import Node
from kubeproxy_bpf.meters import HealthMeters
from kubeproxy_bpf.serve import listener
from kubeproxy_bpf.serve.health import Health
from kubeproxy_bpf.serve.healthz import HealthServer


@pytest.fixture
def health():
    health = Health(("IPv4",), 60.0, lambda: datetime.now(timezone.utc))
    health.node_seen(Node("n", "", (), (), False, ()))
    health.sync_finished()
    return health


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@asynccontextmanager
async def served(health, host, port, **options):
    task = asyncio.create_task(HealthServer(health, host, port, **options).run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def fetch(url, read, tries=100):
    """Ask until somebody listens."""
    async with aiohttp.ClientSession() as session:
        for _ in range(tries):
            try:
                async with session.get(url) as answer:
                    return await read(answer)
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.02)
    raise AssertionError(f"{url} does not answer")


async def get(url):
    async def read(answer):
        return answer.status, answer.headers, await answer.json()

    return await fetch(url, read)


async def get_text(url):
    return await fetch(url, lambda answer: answer.text())


async def test_both_endpoints_answer_on_both_families(health):
    """An unspecified IPv4 address serves IPv6 clients too, as kube-proxy does."""
    port = free_port()
    async with served(health, "0.0.0.0", port):
        status, headers, body = await get(f"http://127.0.0.1:{port}/healthz")
        assert 200 == status
        assert "application/json" == headers["Content-Type"]
        assert "nosniff" == headers["X-Content-Type-Options"]
        assert {"lastUpdated", "currentTime", "healthy", "nodeEligible", "status"} == set(body)

        status, _, body = await get(f"http://[::1]:{port}/livez")
        assert 200 == status
        assert "nodeEligible" not in body


async def test_an_unhealthy_proxy_answers_503(health):
    """The status code is what kubelets and load balancers read."""
    port = free_port()
    health.writer_awaited()
    async with served(health, "127.0.0.1", port):
        assert 503 == (await get(f"http://127.0.0.1:{port}/livez"))[0]


async def test_a_taken_port_is_tried_again(health, monkeypatch):
    """The proxy that is being replaced may still hold the port."""
    monkeypatch.setattr(listener, "RETRY_S", 0.02)
    blocker = socket.create_server(("127.0.0.1", 0))
    port = blocker.getsockname()[1]
    async with served(health, "127.0.0.1", port):
        await asyncio.sleep(0.1)
        blocker.close()

        assert 200 == (await get(f"http://127.0.0.1:{port}/livez"))[0]


async def test_answers_are_counted_by_status(health):
    """For each of the two paths; kube-proxy's metrics show them."""
    port, meters = free_port(), HealthMeters()
    async with served(health, "127.0.0.1", port, meters=meters):
        for path in ("healthz", "livez", "livez", "healthz/"):
            await get_text(f"http://127.0.0.1:{port}/{path}")
        health.writer_awaited()
        await get_text(f"http://127.0.0.1:{port}/livez")
    assert {("200",): 1} == meters.healthz.values
    assert {("200",): 2, ("503",): 1} == meters.livez.values


async def test_other_paths_are_unknown(health):
    """In Go's words, and without the name of our library."""

    async def read(answer):
        return answer.status, answer.headers, await answer.text()

    port = free_port()
    async with served(health, "127.0.0.1", port):
        for path in ("", "ready", "healthz/"):
            status, headers, body = await fetch(f"http://127.0.0.1:{port}/{path}", read)
            assert (404, "404 page not found\n") == (status, body)
            assert "nosniff" == headers["X-Content-Type-Options"]
            assert "Server" not in headers


async def test_a_port_that_must_be_had_ends_the_server(health):
    """bindAddressHardFail: whoever reports it hears it first, with address and reason."""
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as blocker:
        port = blocker.getsockname()[1]
        with pytest.raises(listener.BindFailed) as failure:
            await HealthServer(health, "127.0.0.1", port, heard.append).run()
    assert [failure.value] == heard
    text = f"failed to start the health server on 127.0.0.1:{port}: "
    assert str(failure.value).startswith(text)
