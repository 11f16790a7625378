# SPDX-License-Identifier: Apache-2.0
"""All resources into one store."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from random import Random
from typing import AsyncIterator

from aiohttp import web

from kubeproxy_bpf.api.client import ApiClient, keepalive_socket
from kubeproxy_bpf.api.credentials import Credentials
from kubeproxy_bpf.api.decode import Kind
from kubeproxy_bpf.api.objects import ServiceCIDR
from kubeproxy_bpf.api.source import ApiSource, node_store
from kubeproxy_bpf.api.store import State, Store

from .conftest import PROMPT, FastClock, until
from .scripted_server import ScriptedServer, service

CIDR = "ServiceCIDR"


class PatientClock(FastClock):
    """Sleeps last until the test lets them end."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[float] = []
        self.released = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.waiting.append(seconds)
        await self.released.wait()
        await super().sleep(seconds)


@asynccontextmanager
async def following(server: ScriptedServer, store: Store, clock: FastClock) -> AsyncIterator[None]:
    credentials = Credentials(master=f"http://127.0.0.1:{server.port}")
    await credentials.load()
    async with ApiClient(credentials, clock) as client:
        source = ApiSource(client, store, "n1", PROMPT, clock, Random(7))
        task = asyncio.create_task(source.run())
        try:
            yield
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def node(name: str) -> dict[str, object]:
    status = {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}
    return {"metadata": {"name": name}, "status": status}


def pod(name: str, node_name: str) -> dict[str, object]:
    return {"metadata": {"name": name, "namespace": "d"}, "spec": {"nodeName": node_name}}


async def test_all_resources_arrive_and_only_ours(server: ScriptedServer) -> None:
    """The store opens with Services, slices and our Node; other nodes' objects are not ours."""
    server.put(service("a"))
    for name in ("n1", "n2"):
        server.put(node(name), "Node")
        server.put(pod(f"on-{name}", name), "Pod")
    store = node_store()
    async with following(server, store, FastClock()):
        await until(lambda: store.synced and store.state(Kind.POD) is State.LISTED)
    assert [k.name for k in store.objects(Kind.NODE)] == ["n1"]
    assert [k.name for k in store.objects(Kind.POD)] == ["on-n1"]
    selectors = {q.get("fieldSelector") for q in server.requests}
    assert {"metadata.name=n1", "spec.nodeName=n1"} <= selectors


async def test_service_cidrs_arrive_and_nobody_waits_for_them(server: ScriptedServer) -> None:
    """A server that does not know the resource delays nothing; one that does tells its changes."""
    server.put({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}, CIDR)
    server.put(node("n1"), "Node")

    async def unknown(request: web.Request) -> web.StreamResponse | None:
        if not hidden or not request.path.endswith("servicecidrs"):
            return None
        return web.json_response({"code": 404}, status=404)

    server.always, hidden = unknown, True
    store = node_store()
    async with following(server, store, FastClock()):
        await until(lambda: store.synced and store.state(Kind.SERVICE_CIDR) is State.UNAVAILABLE)
        assert not store.objects(Kind.SERVICE_CIDR)
        hidden = False
        await until(lambda: store.state(Kind.SERVICE_CIDR) is State.LISTED)
    assert [ServiceCIDR("kubernetes", ("10.96.0.0/16",))] == [
        *store.objects(Kind.SERVICE_CIDR).values()
    ]


async def test_without_our_node_the_store_opens_after_the_wait(server: ScriptedServer) -> None:
    """30 s are given to the Node [K2]; then the others are served without it."""
    server.put(service("a"))
    store, clock = node_store(), PatientClock()
    async with following(server, store, clock):
        await until(lambda: store.state(Kind.NODE) is State.LISTED and server.watching == 5)
        await until(lambda: store.missing() == (Kind.NODE,))
        assert not store.synced and 30.0 in clock.waiting
        clock.released.set()
        await until(lambda: store.synced)


def test_sockets_notice_a_dead_peer() -> None:
    """Keepalive while we wait for events, a user time-out while we send."""
    info = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))
    with keepalive_socket(info) as sock:
        tcp = socket.IPPROTO_TCP
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert [sock.getsockopt(tcp, o) for o in options] == [15, 5, 3]
        assert sock.getsockopt(tcp, socket.TCP_USER_TIMEOUT) == 30_000
