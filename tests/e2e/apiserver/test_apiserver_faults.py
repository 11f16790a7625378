# SPDX-License-Identifier: Apache-2.0
"""Each fault shows itself to a client, as often as asked and no longer."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from kubeproxy_bpf.sandbox.apiserver import ApiServer, Options

from .conftest import SERVICES, Client, service


@pytest.mark.parametrize(
    "code, reason", [(429, "TooManyRequests"), (500, "InternalError"), (403, "Forbidden")]
)
async def test_an_error_as_often_as_asked(
    server: ApiServer, client: Client, code: int, reason: str
) -> None:
    """A status fault answers so many requests with its code, then the server is well again."""
    server.add_fault(kind="status", code=code, times=2, retry_after_s=3)
    for _ in range(2):
        answer = await client.get(SERVICES)
        assert (answer.status, answer.body["reason"]) == (code, reason)
        assert answer.headers["Retry-After"] == "3"
    assert (await client.get(SERVICES)).status == 200


async def test_a_fault_keeps_to_its_resource_and_verb(server: ApiServer, client: Client) -> None:
    """One kind can be forbidden while others are served, for some verbs or all."""
    server.add_fault(kind="status", code=403, resource="services", verbs=["list"], times=None)
    assert (await client.get(SERVICES)).status == 403
    assert (await client.get("/api/v1/pods")).status == 200
    assert (await client.call("POST", SERVICES, service("a"))).status == 201
    server.faults.clear()
    assert (await client.get(SERVICES)).status == 200


async def test_gone_strikes_lists_and_running_watches(server: ApiServer, client: Client) -> None:
    """The gone fault is a 410 answer to a list and an ERROR event in a watch that is open."""
    server.add_fault(kind="gone", verbs=["list"])
    assert (await client.get(SERVICES)).status == 410
    async with client.watch(SERVICES, resourceVersion=server.store.version) as watch:
        server.add_fault(kind="gone", resource="services", verbs=["watch"])
        events = await watch.rest()
    assert [event["object"]["code"] for event in events] == [410]


async def test_a_watch_is_cut_in_mid_line(server: ApiServer, client: Client) -> None:
    """The connection ends within an event, without a proper end of the response."""
    server.add_fault(kind="cut")
    async with client.watch(SERVICES, resourceVersion=server.store.version) as watch:
        server.registry.apply(service("a"))
        received = b""
        with pytest.raises(aiohttp.ClientPayloadError):
            async for chunk in watch.response.content.iter_any():
                received += chunk
    assert received.startswith(b'{"type":"ADDED"') and not received.endswith(b"\n")


async def test_a_stalled_watch_is_silent_until_cleared(server: ApiServer, client: Client) -> None:
    """A stall holds back bookmarks and events; clearing it lets them through."""
    query = {"resourceVersion": server.store.version, "allowWatchBookmarks": "true"}
    async with client.watch(SERVICES, **query) as watch:
        await watch.next()
        server.add_fault(kind="stall", times=None)
        server.registry.apply(service("a"))
        with pytest.raises(TimeoutError):
            # Many bookmark intervals of this server.
            await asyncio.wait_for(watch.response.content.readany(), 1)
        server.faults.clear()
        events = await watch.until_bookmark()
    assert events[0]["object"]["metadata"]["name"] == "a"


async def test_a_stall_does_not_hold_up_a_stop(client: Client) -> None:
    """A server with a stalled watch stops."""
    other = ApiServer()
    client.url = await other.start()
    async with client.watch(SERVICES, resourceVersion=other.store.version):
        other.add_fault(kind="stall", times=None)
        await asyncio.sleep(0)
        await asyncio.wait_for(other.stop(), 30)


@pytest.mark.parametrize("framed", [True, False])
async def test_a_body_is_truncated(server: ApiServer, client: Client, framed: bool) -> None:
    """Half a body arrives, either as a complete response or as a broken one."""
    server.add_fault(kind="truncate", framed=framed)
    error = json.JSONDecodeError if framed else aiohttp.ClientPayloadError
    with pytest.raises(error):
        await client.get(SERVICES)
    assert (await client.get(SERVICES)).status == 200


async def test_a_slow_body_still_arrives(server: ApiServer, client: Client) -> None:
    """A slow body comes in pieces and is whole."""
    server.registry.apply(service("a"))
    server.add_fault(kind="slow", chunk_bytes=64, delay_s=0.001)
    assert await client.names(SERVICES) == ["a"]
    assert server.faults.active == []


async def test_events_are_doubled(server: ApiServer, client: Client) -> None:
    """The duplicate fault sends an event twice."""
    async with client.watch(SERVICES, resourceVersion=server.store.version) as watch:
        server.add_fault(kind="duplicate")
        server.registry.apply(service("a"))
        assert await watch.names(2) == [("ADDED", "a")] * 2


async def test_a_list_shrinks(server: ApiServer, client: Client) -> None:
    """The shrink fault leaves objects out of a list that claims to be complete."""
    for name in ("a", "b", "c"):
        server.registry.apply(service(name))
    server.add_fault(kind="shrink", keep=1)
    body = (await client.get(SERVICES)).body
    assert len(body["items"]) == 1 and "continue" not in body["metadata"]
    assert await client.names(SERVICES) == ["a", "b", "c"]
    server.add_fault(kind="shrink", keep=2)
    initial = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    async with client.watch(SERVICES, allowWatchBookmarks="true", **initial) as watch:
        assert len(await watch.until_bookmark()) == 3


async def test_connections_are_refused_then_accepted(server: ApiServer, client: Client) -> None:
    """A server that is gone cuts watches and refuses connections; it comes back where it was."""
    server.registry.apply(service("a"))
    url = server.url
    async with client.watch(SERVICES, resourceVersion=server.store.version) as watch:
        await server.refuse()
        with pytest.raises(aiohttp.ClientError):
            await watch.response.content.read()
    with pytest.raises(aiohttp.ClientConnectorError):
        await client.get(SERVICES)
    await server.listen()
    assert server.url == url
    assert await client.names(SERVICES) == ["a"]


@pytest.mark.parametrize("first", [1, 100_000])
async def test_versions_start_anew(server: ApiServer, client: Client, first: int) -> None:
    """After a restore all versions are new and those of before are gone or not yet reached."""
    for name in ("a", "b"):
        server.registry.apply(service(name, {"n": "1"}))
        server.registry.apply(service(name, {"n": "2"}))
    before = server.store.version
    server.renumber(first)
    listed = (await client.get(SERVICES)).body
    versions = [int(item["metadata"]["resourceVersion"]) for item in listed["items"]]
    assert all(first < version <= server.store.version for version in versions)
    async with client.watch(SERVICES, resourceVersion=before, timeoutSeconds=1) as watch:
        codes = [event["object"].get("code") for event in await watch.rest()]
    assert codes == ([410] if first > before else [])


async def test_a_token_is_needed(client: Client) -> None:
    """Without the token every path is 401; a new token replaces the old at once."""
    other = ApiServer(options=Options(token="one"))
    client.url = await other.start()
    try:
        for path in (SERVICES, "/version"):
            answer = await client.get(path)
            assert (answer.status, answer.body["reason"]) == (401, "Unauthorized")
        one, two = ({"Authorization": f"Bearer {token}"} for token in ("one", "two"))
        assert (await client.call("GET", SERVICES, headers=one)).status == 200
        other.set_token("two")
        assert (await client.call("GET", SERVICES, headers=one)).status == 401
        assert (await client.call("GET", SERVICES, headers=two)).status == 200
    finally:
        await other.stop()


async def test_faults_are_asked_for_over_http(server: ApiServer, client: Client) -> None:
    """/sandbox/faults adds, shows and clears faults, and refuses what it does not know."""
    path = "/sandbox/faults"
    added = await client.call("POST", path, {"kind": "status", "code": 503, "times": None})
    assert (await client.get(SERVICES)).status == 503
    assert [fault["id"] for fault in (await client.get(path)).body] == [added.body["id"]]
    await client.call("DELETE", path, id=added.body["id"])
    assert (await client.get(SERVICES)).status == 200
    assert (await client.call("POST", path, {"kind": "earthquake"})).status == 400
    assert (await client.call("POST", path, {"kind": "cut", "sharp": True})).status == 400


async def test_the_whole_server_is_struck_over_http(server: ApiServer, client: Client) -> None:
    """Compacting, renumbering, refusing and changing the token work from another process."""
    path = "/sandbox/faults"
    version = server.store.version
    server.registry.apply(service("a"))
    await client.call("POST", path, {"kind": "compact"})
    await client.call("POST", path, {"kind": "renumber", "first": 5000})
    while server.store.version < 5000:  # It cuts all connections, also new ones.
        await asyncio.sleep(0.01)
    await client.call("POST", path, {"kind": "token", "token": "t"})
    while (answer := await client.get(SERVICES)).status != 401:
        await asyncio.sleep(0.01)
    assert answer.body["reason"] == "Unauthorized" and version < 5000
    refused = False
    while not refused:  # A machine that pauses this process may sleep through it.
        await client.call("POST", path, {"kind": "refuse", "seconds": 0.3})
        refused = await is_refused(client)
    while await is_refused(client):
        pass


async def is_refused(client: Client) -> bool:
    """Whether the server cannot be reached within a moment."""
    for _ in range(10):
        try:
            await client.get("/version")
        except aiohttp.ClientError:
            return True
        await asyncio.sleep(0.01)
    return False


async def test_the_fault_path_is_closed_unless_asked_for(client: Client) -> None:
    """A server without the admin switch does not know the path."""
    other = ApiServer()
    client.url = await other.start()
    try:
        assert (await client.call("POST", "/sandbox/faults", {"kind": "stall"})).status == 404
    finally:
        await other.stop()
