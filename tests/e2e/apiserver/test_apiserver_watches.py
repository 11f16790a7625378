# SPDX-License-Identifier: Apache-2.0
"""Watches over HTTP: order, starts, selectors, bookmarks, the window and its 410."""

from __future__ import annotations

import asyncio

from kubeproxy_bpf.sandbox.apiserver import ApiServer, Options

from .conftest import SERVICES, Client, service


async def test_a_watch_continues_from_the_version_of_a_list(
    server: ApiServer, client: Client
) -> None:
    """Exactly what happened after the list arrives, in order, with growing versions."""
    server.registry.apply(service("a"))
    version = (await client.get(SERVICES)).body["metadata"]["resourceVersion"]
    server.registry.apply(service("b"))
    async with client.watch(SERVICES, resourceVersion=version) as watch:
        server.registry.apply(service("a", {"l": "1"}))
        await client.call("DELETE", f"{SERVICES}/b")
        events = [await watch.next() for _ in range(3)]
    shown = [(event["type"], event["object"]["metadata"]["name"]) for event in events]
    assert shown == [("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions))
    assert events[0]["object"]["kind"] == "Service"


async def test_a_watch_without_a_version_starts_with_the_state(
    server: ApiServer, client: Client
) -> None:
    """No version and version 0 both begin with an ADDED per object."""
    server.registry.apply(service("a"))
    server.registry.apply(service("b"))
    for query in ({}, {"resourceVersion": "0"}):
        async with client.watch(SERVICES, **query) as watch:
            assert await watch.names(2) == [("ADDED", "a"), ("ADDED", "b")]


async def test_watch_list_ends_its_state_with_a_bookmark(server: ApiServer, client: Client) -> None:
    """sendInitialEvents gives the state, then a bookmark that says so, then changes."""
    server.registry.apply(service("a"))
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    async with client.watch(SERVICES, allowWatchBookmarks="true", **query) as watch:
        *state, end = await watch.until_bookmark()
        assert [event["object"]["metadata"]["name"] for event in state] == ["a"]
        assert end["object"]["kind"] == "Service"
        assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert end["object"]["metadata"]["resourceVersion"] == str(server.store.version)
        server.registry.apply(service("b"))
        events = await watch.until_bookmark()
        while events[0]["type"] == "BOOKMARK":
            events = await watch.until_bookmark()
        assert events[0]["object"]["metadata"]["name"] == "b"


async def test_initial_events_can_be_declined(server: ApiServer, client: Client) -> None:
    """sendInitialEvents=false starts with the changes, even without a version."""
    server.registry.apply(service("a"))
    query = {"sendInitialEvents": "false", "resourceVersionMatch": "NotOlderThan"}
    async with client.watch(SERVICES, **query) as watch:
        server.registry.apply(service("b"))
        assert await watch.names(1) == [("ADDED", "b")]


async def test_servers_without_watch_list(client: Client, server: ApiServer) -> None:
    """A server whose gate is off refuses the option; one that is too old ignores it."""
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    for mode in ("rejected", "ignored"):
        other = ApiServer(options=Options(watch_list=mode))
        other.registry.apply(service("a"))
        client.url = await other.start()
        try:
            if mode == "rejected":
                answer = await client.get(SERVICES, watch="true", **query)
                assert (answer.status, answer.body["reason"]) == (422, "Invalid")
            else:
                query |= {"allowWatchBookmarks": "true", "timeoutSeconds": "1"}
                async with client.watch(SERVICES, **query) as watch:
                    events = await watch.rest()
                assert [event["type"] for event in events] == ["ADDED", "BOOKMARK"]
                assert "annotations" not in events[1]["object"]["metadata"]
        finally:
            await other.stop()


async def test_bookmarks_tell_versions_of_other_kinds(server: ApiServer, client: Client) -> None:
    """A bookmark carries a version that grows even when no object of the kind changes."""
    query = {"resourceVersion": server.store.version, "allowWatchBookmarks": "true"}
    async with client.watch(SERVICES, **query) as watch:
        first = await watch.next()
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}
        server.registry.apply(node)
        second = await watch.next()
        while second["object"]["metadata"]["resourceVersion"] != str(server.store.version):
            second = await watch.next()
    assert (first["type"], second["type"]) == ("BOOKMARK", "BOOKMARK")


async def test_no_bookmarks_unless_asked(server: ApiServer, client: Client) -> None:
    """A watch that did not ask for bookmarks gets none, and ends at its timeout."""
    query = {"resourceVersion": server.store.version, "timeoutSeconds": 1}
    async with client.watch(SERVICES, **query) as watch:
        assert await watch.rest() == []


async def test_a_watch_ends_at_its_timeout_with_a_bookmark(
    server: ApiServer, client: Client
) -> None:
    """timeoutSeconds ends the response properly, after a last bookmark."""
    query = {"resourceVersion": server.store.version, "timeoutSeconds": 1}
    async with client.watch(SERVICES, allowWatchBookmarks="true", **query) as watch:
        events = await watch.rest()
    assert {event["type"] for event in events} == {"BOOKMARK"}


async def test_objects_enter_and_leave_a_selected_watch(server: ApiServer, client: Client) -> None:
    """A change that makes an object match or cease to match is seen as ADDED or DELETED."""
    query = {"resourceVersion": server.store.version, "labelSelector": "app=x"}
    async with client.watch(SERVICES, **query) as watch:
        for labels in ({"app": "y"}, {"app": "x"}, {"app": "x", "b": "c"}, {"app": "y"}, {}):
            server.registry.apply(service("a", labels))
        server.registry.apply(service("end", {"app": "x"}))
        events = [await watch.next() for _ in range(4)]
    assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED", "ADDED"]
    left = events[2]["object"]["metadata"]
    assert left["labels"] == {"app": "x", "b": "c"}
    assert int(left["resourceVersion"]) > int(events[1]["object"]["metadata"]["resourceVersion"])


async def test_a_field_selected_watch_follows_one_object(server: ApiServer, client: Client) -> None:
    """metadata.name watches one object; spec.clusterIP!=None lets no headless Service in."""
    version = server.store.version
    async with (
        client.watch(SERVICES, resourceVersion=version, fieldSelector="metadata.name=b") as named,
        client.watch(
            SERVICES, resourceVersion=version, fieldSelector="spec.clusterIP!=None"
        ) as not_headless,
    ):
        server.registry.apply(service("a", clusterIP="None"))
        server.registry.apply(service("b"))
        assert await named.names(1) == [("ADDED", "b")]
        assert await not_headless.names(1) == [("ADDED", "b")]


async def test_a_watch_keeps_to_its_namespace(server: ApiServer, client: Client) -> None:
    """A namespaced watch hears nothing of other namespaces."""
    async with client.watch(SERVICES, resourceVersion=server.store.version) as watch:
        other = service("a")
        other["metadata"]["namespace"] = "other"
        server.registry.apply(other)
        server.registry.apply(service("b"))
        assert await watch.names(1) == [("ADDED", "b")]


async def test_a_version_out_of_the_window_is_gone(server: ApiServer, client: Client) -> None:
    """A watch from before the window gets an ERROR event with a 410 Status, and the end."""
    server.registry.apply(service("a"))
    version = server.store.version
    for number in range(server.store.window + 1):
        server.registry.apply(service("a", {"n": str(number)}))
    async with client.watch(SERVICES, resourceVersion=version) as watch:
        events = await watch.rest()
    assert [event["type"] for event in events] == ["ERROR"]
    status = events[0]["object"]
    assert (status["kind"], status["code"], status["reason"]) == ("Status", 410, "Expired")


async def test_the_window_reaches_back_as_far_as_it_says(server: ApiServer, client: Client) -> None:
    """The oldest version within the window still gives every change after it."""
    for number in range(server.store.window + 5):
        server.registry.apply(service("a", {"n": str(number)}))
    version = server.store.version - server.store.window
    async with client.watch(SERVICES, resourceVersion=version, timeoutSeconds=1) as watch:
        assert len(await watch.rest()) == server.store.window


async def test_before_a_version_of_the_future_is_silence(server: ApiServer, client: Client) -> None:
    """A watch from a version that was never given is accepted, and hears nothing, bookmarks
    included, of what comes up to it; then it hears all."""
    version = server.store.version + 2
    query = {"resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": 1}
    async with client.watch(SERVICES, **query) as watch:
        server.registry.apply(service("a"))
        server.registry.apply(service("b"))
        assert server.store.version == version
        server.registry.apply(service("c"))
        assert (await watch.next())["object"]["metadata"]["name"] == "c"
    query["resourceVersion"] = server.store.version + 1
    async with client.watch(SERVICES, **query) as watch:
        assert await watch.rest() == []


async def test_many_watchers_all_hear_everything(server: ApiServer, client: Client) -> None:
    """Thirty watches at once each get each event once."""
    version = server.store.version

    async def follow() -> list[tuple[str, str]]:
        async with client.watch(SERVICES, resourceVersion=version) as watch:
            return await watch.names(20)

    tasks = [asyncio.create_task(follow()) for _ in range(30)]
    await asyncio.sleep(0)
    for number in range(20):
        server.registry.apply(service(f"s{number:02d}"))
        await asyncio.sleep(0)
    expected = [("ADDED", f"s{number:02d}") for number in range(20)]
    assert all(names == expected for names in await asyncio.gather(*tasks))


async def test_large_objects_come_whole(server: ApiServer, client: Client) -> None:
    """An object of 5 MB is one line of a watch."""
    big = service("big")
    big["metadata"]["annotations"] = {"filler": "x" * 5_000_000}
    server.store.put(big)
    async with client.watch(SERVICES, timeoutSeconds=1) as watch:
        content = await watch.response.read()
    assert content.count(b"\n") == 1 and len(content) > 5_000_000


async def test_a_stopping_server_ends_its_watches(client: Client) -> None:
    """stop() ends open watches properly instead of waiting for them."""
    other = ApiServer()
    client.url = await other.start()
    async with client.watch(SERVICES, resourceVersion=other.store.version) as watch:
        stopping = asyncio.create_task(other.stop())
        assert await watch.rest() == []
        await stopping
