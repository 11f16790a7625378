# SPDX-License-Identifier: Apache-2.0
"""Faults of servers that are several: one stands in the past, one is reached late or not at all."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import AsyncIterator

import aiohttp
import pytest
import trustme

from kubeproxy_bpf.sandbox.apiserver import ApiServer, Options

from .conftest import SERVICES, Client, service

INITIAL = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}


@pytest.fixture
async def past(server: ApiServer) -> int:
    """The version with "a" alone, where the stale replica stops; now there is "b" too."""
    server.registry.apply(service("a"))
    fault = server.add_fault(kind="stale", times=None)
    server.registry.apply(service("b"))
    assert fault.version < server.store.version
    return fault.version


async def test_a_stale_replica_lists_the_past(server: ApiServer, client: Client, past: int) -> None:
    """Its list has the objects and the version of the moment when it stopped."""
    body = (await client.get(SERVICES)).body
    assert [item["metadata"]["name"] for item in body["items"]] == ["a"]
    assert body["metadata"]["resourceVersion"] == str(past)
    server.faults.clear()
    assert await client.names(SERVICES) == ["a", "b"]


async def test_a_stale_replica_pages_through_the_past(server: ApiServer, client: Client) -> None:
    """All pages of a list come from the same moment."""
    server.registry.apply(service("a"))
    server.registry.apply(service("b"))
    server.add_fault(kind="stale", times=1)
    server.registry.apply(service("c"))
    page = (await client.get(SERVICES, limit=1)).body
    rest = await client.names(SERVICES, **{"continue": page["metadata"]["continue"]})
    assert rest == ["b"]


async def test_a_stale_replica_knows_no_later_version(
    server: ApiServer, client: Client, past: int
) -> None:
    """Asked for something not older than now, it says 504 with the cause that real servers give; a
    watch from now is silent until it gets there."""
    query = {"resourceVersion": server.store.version, "resourceVersionMatch": "NotOlderThan"}
    answer = await client.get(SERVICES, **query)
    causes = [cause["reason"] for cause in answer.body["details"]["causes"]]
    assert (answer.status, causes) == (504, ["ResourceVersionTooLarge"])
    query = {"resourceVersion": server.store.version, "timeoutSeconds": 1}
    async with client.watch(SERVICES, allowWatchBookmarks="true", **query) as watch:
        assert await watch.rest() == []


async def test_a_watch_of_a_stale_replica_stays_in_the_past(
    server: ApiServer, client: Client, past: int
) -> None:
    """Its initial events and bookmarks are of the past; when it is cleared it catches up."""
    async with client.watch(SERVICES, allowWatchBookmarks="true", **INITIAL) as watch:
        server.registry.apply(service("c"))
        first = await watch.until_bookmark()
        second = await watch.until_bookmark()
        assert [event["object"]["metadata"].get("name") for event in first] == ["a", None]
        for event in (first[-1], second[-1]):
            assert event["object"]["metadata"]["resourceVersion"] == str(past)
        assert len(second) == 1
        server.faults.clear()
        names = [e["object"]["metadata"].get("name") for e in await watch.until_bookmark()]
        assert names == ["b", "c", None]


async def test_a_watch_that_runs_stays_on_its_replica(server: ApiServer, client: Client) -> None:
    """The fault concerns whoever comes after it; an open watch hears of everything."""
    async with client.watch(SERVICES, resourceVersion=server.store.version) as watch:
        server.add_fault(kind="stale", times=None)
        server.registry.apply(service("a"))
        assert await watch.names(1) == [("ADDED", "a")]


async def test_events_come_in_the_wrong_order(server: ApiServer, client: Client) -> None:
    """Two events change places, once; the one that came first is held back until then."""
    async with client.watch(SERVICES, resourceVersion=server.store.version) as watch:
        server.add_fault(kind="reorder")
        for name in "abc":
            server.registry.apply(service(name))
            await asyncio.sleep(0.05)
        assert await watch.names(3) == [("ADDED", "b"), ("ADDED", "a"), ("ADDED", "c")]


async def test_an_answer_begins_late(server: ApiServer, client: Client) -> None:
    """A delayed answer is not there before its time, and whole then."""
    server.registry.apply(service("a"))
    fault = server.add_fault(kind="delay", delay_s=3600, verbs=["list"])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.get(SERVICES), 0.5)
    assert fault not in server.faults.active
    server.add_fault(kind="delay", delay_s=0.05, verbs=["list"])
    assert await client.names(SERVICES) == ["a"]


async def test_a_flapping_server_comes_and_goes(server: ApiServer, client: Client) -> None:
    """It refuses and accepts so many times, and accepts in the end."""
    await client.call("POST", "/sandbox/faults", {"kind": "flap", **flapping(3)})
    turns: list[bool] = []
    while len(turns) < 7 or not turns[-1]:
        try:
            there = (await client.get("/version")).status == 200
        except aiohttp.ClientError:
            there = False
        if not turns or turns[-1] != there:
            turns.append(there)
        await asyncio.sleep(0.01)
    assert turns == [True, False] * 3 + [True]


def flapping(times: int) -> dict[str, float]:
    return {"times": times, "up_s": 0.3, "down_s": 0.3}


async def test_connections_are_cut_on_demand(server: ApiServer, client: Client) -> None:
    """All connections end at once, and new ones are accepted."""
    async with client.watch(SERVICES, resourceVersion=server.store.version) as watch:
        await client.call("POST", "/sandbox/faults", {"kind": "disconnect"})
        with pytest.raises(aiohttp.ClientError):
            await watch.response.content.read()
    assert (await client.get(SERVICES)).status == 200


def write_certificate(authority: trustme.CA, directory: Path) -> dict[str, str]:
    """A new certificate of an authority in files, as an action names them."""
    issued = authority.issue_cert("127.0.0.1")
    (directory / "tls.crt").write_bytes(b"".join(p.bytes() for p in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(directory / "tls.key"))
    return {"cert": str(directory / "tls.crt"), "key": str(directory / "tls.key")}


def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
async def secured(tmp_path: Path) -> AsyncIterator[tuple[ApiServer, str, trustme.CA]]:
    """A server with a port for everybody and one with TLS, where a token is demanded."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*write_certificate(authority, tmp_path).values())
    server = ApiServer(admin=True, options=Options(token="one", insecure_port=True))
    await server.start()
    yield server, await server.listen_too("127.0.0.1", 0, context), authority
    await server.stop()


async def test_credentials_are_demanded_where_there_is_tls(
    secured: tuple[ApiServer, str, trustme.CA], client: Client
) -> None:
    """The other port needs none; both show the same objects and come and go together."""
    server, url, authority = secured
    client.url = server.url
    await client.call("POST", SERVICES, service("a"))
    async with aiohttp.ClientSession() as session:
        bearer = {"Authorization": "Bearer one"}
        for headers, code in (({}, 401), (bearer, 200)):
            path = url + SERVICES
            async with session.get(path, headers=headers, ssl=trust(authority)) as response:
                assert response.status == code
                names = [i["metadata"]["name"] for i in (await response.json()).get("items", ())]
        assert names == ["a"]
        await server.refuse()
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(url + "/version", ssl=trust(authority))
        await server.listen()
        async with session.get(url + "/healthz", ssl=trust(authority), headers=bearer) as response:
            assert response.status == 200


async def test_a_new_certificate_is_shown_to_new_connections(
    secured: tuple[ApiServer, str, trustme.CA], client: Client, tmp_path: Path
) -> None:
    """Connections are cut; whoever knows only the old authority is not served any more."""
    server, url, authority = secured
    client.url = server.url
    other = trustme.CA()
    action = {"kind": "certificate", **write_certificate(other, tmp_path)}
    await client.call("POST", "/sandbox/faults", action)
    await asyncio.sleep(0.2)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(url + "/version", ssl=trust(authority))
        async with session.get(url + "/version", ssl=trust(other)) as response:
            assert response.status == 401
