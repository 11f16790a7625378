# SPDX-License-Identifier: Apache-2.0
"""Listing and watching while nothing is wrong."""

from __future__ import annotations

import asyncio

import pytest

from kubeproxy_bpf.api.decode import Kind

from .conftest import Rig, until
from .scripted_server import service


@pytest.mark.parametrize("watch_list", ["served", "refused", "ignored"])
async def test_every_kind_of_server_is_followed(rig: Rig, watch_list: str) -> None:
    """Initial state, additions, changes and deletions arrive, with WatchList and without."""
    rig.server.watch_list = watch_list
    for i in range(7):
        rig.server.put(service(f"s{i}", 80 + i))
    async with rig.following(page_size=3):
        await until(lambda: rig.store.synced)
        assert rig.ports == {f"s{i}": 80 + i for i in range(7)}
        await until(lambda: rig.server.watching == 1)
        rig.server.put(service("new", 90))
        rig.server.put(service("s0", 91))
        rig.server.delete("s1")
        await until(lambda: "s1" not in rig.ports)
    assert rig.ports["new"] == 90 and rig.ports["s0"] == 91
    assert rig.journal.synced == 1


async def test_nothing_leaves_before_the_initial_state_is_complete(rig: Rig) -> None:
    """Objects that came before the end of the initial events are told only after it."""
    rig.server.bookmark_at_once = False
    rig.server.put(service("first"))
    async with rig.following(initial_idle_s=15.0, initial_limit_s=15.0):
        await until(lambda: rig.server.watching == 1)
        rig.server.put(service("second"))
        rig.server.send("BOOKMARK", {"metadata": {"resourceVersion": "102"}})
        await asyncio.sleep(0.1)
        assert not rig.store.synced and not rig.journal.changes
        end = {"k8s.io/initial-events-end": "true"}
        meta = {"resourceVersion": "102", "annotations": end}
        rig.server.send("BOOKMARK", {"metadata": meta})
        await until(lambda: rig.store.synced)
    assert rig.journal.changes == [("first", False, True), ("second", False, True)]


async def test_selectors_are_those_of_kube_proxy(rig: Rig) -> None:
    """Headless Services and those of other proxies are not asked for [A1, A4]."""
    async with rig.following():
        await until(lambda: rig.store.synced)
    query = rig.server.requests[0]
    assert query["fieldSelector"] == "spec.clusterIP!=None"
    assert query["labelSelector"] == "!service.kubernetes.io/service-proxy-name"


async def test_servers_that_ignore_selectors_show_nothing_more(rig: Rig) -> None:
    """An object that a selector excludes counts as absent, also when it becomes so later."""
    other = service("other")
    other["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": ""}
    rig.server.put(service("headless", clusterIP="None"))
    rig.server.put(other)
    rig.server.put(service("mine"))
    async with rig.following():
        await until(lambda: rig.store.synced)
        assert set(rig.ports) == {"mine"}
        taken = service("mine")
        taken["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "else"}
        rig.server.put(taken)
        await until(lambda: not rig.ports)
    assert not rig.store.objects(Kind.SERVICE)


async def test_bookmarks_move_the_position(rig: Rig) -> None:
    """A watch resumes from the last bookmark, so compaction of what lies before costs no list."""
    rig.server.put(service("a"))
    async with rig.following():
        await until(lambda: rig.server.watching == 1 and rig.store.synced)
        rig.server.bookmark()
        rig.server.put(service("b"))
        rig.server.forget_history()
        await until(lambda: "b" in rig.ports)
        rig.server.bookmark()
        rig.server.forget_history()
        rig.server.end_watches()
        await until(lambda: len(rig.server.requests) == 2 and rig.server.watching == 1)
    assert rig.server.resumed() == [str(rig.server.version)]
