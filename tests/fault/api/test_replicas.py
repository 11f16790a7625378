# SPDX-License-Identifier: Apache-2.0
"""Servers that say less than is true: replicas in the past, lists that lack objects, silence."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from random import Random
from typing import AsyncIterator, Collection

import pytest

from kubeproxy_bpf.api.client import ApiClient
from kubeproxy_bpf.api.credentials import Credentials
from kubeproxy_bpf.api.decode import Kind
from kubeproxy_bpf.api.objects import ObjectKey
from kubeproxy_bpf.api.reflector import Reflector, ReflectorSettings
from kubeproxy_bpf.api.resources import services
from kubeproxy_bpf.api.store import Store
from kubeproxy_bpf.sandbox.apiserver import ApiServer, Options

from .conftest import FastClock, Journal, Rig, until
from .scripted_server import service

ON_SERVICES = {"resource": "services", "verbs": ["list", "watch"], "times": None}


class Replicas:
    """A reflector that follows the Services of an embedded API server with faults."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.clock = FastClock()
        self.store = Store({Kind.SERVICE: lambda objects: True})
        self.journal = Journal()
        self.store.subscribe(self.journal)

    @property
    def names(self) -> set[str]:
        return {key.name for key in self.store.objects(Kind.SERVICE)}

    def put(self, *names: str) -> None:
        for name in names:
            self.server.store.put({"apiVersion": "v1", "kind": "Service", **service(name)})

    def delete(self, name: str) -> None:
        from kubeproxy_bpf.sandbox.apiserver.resources import SERVICES, Key

        self.server.store.delete(SERVICES, Key("default", name))

    def fault(self, **fields: object) -> None:
        self.server.add_fault(**{**ON_SERVICES, **fields})

    def relist(self) -> None:
        """End the watch so that no other can take its place."""
        self.fault(kind="gone", verbs=["watch"], times=1)

    @asynccontextmanager
    async def following(
        self, settings: ReflectorSettings, expected: Collection[ObjectKey] = ()
    ) -> AsyncIterator[None]:
        credentials = Credentials(master=self.server.url)
        await credentials.load()
        async with ApiClient(credentials, self.clock) as client:
            sink = self.store.sink(Kind.SERVICE)
            reflector = Reflector(
                client, services(), sink, settings, self.clock, Random(7), expected=expected
            )
            task = asyncio.create_task(reflector.run())
            try:
                await until(lambda: self.store.synced and self.server._front._wakers)
                yield
                assert not task.done(), task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(params=["on", "rejected"])
async def replicas(request: pytest.FixtureRequest) -> AsyncIterator[Replicas]:
    """Both ways to list: as a stream of events, and as pages."""
    options = Options(watch_list=request.param, bookmark_s=0.05)
    server = ApiServer(validate=False, options=options)
    await server.start()
    yield Replicas(server)
    await server.stop()


IMPATIENT = ReflectorSettings(initial_idle_s=0.3, initial_limit_s=1.0)


async def pulsing(rig: Rig) -> None:
    """Show the watch a pace of bookmarks; none come later."""
    for _ in range(2):
        rig.server.bookmark()
        await asyncio.sleep(0.05)


async def test_a_stale_replica_takes_nothing_away(
    replicas: Replicas, capsys: pytest.CaptureFixture[str]
) -> None:
    """What came since stays, what is gone stays away, until a replica has caught up."""
    replicas.put(*"abcdef")
    async with replicas.following(IMPATIENT):
        replicas.fault(kind="stale")
        replicas.put("new")
        replicas.delete("a")
        await until(lambda: replicas.names == set("bcdef") | {"new"})
        before = len(replicas.journal.changes)
        replicas.relist()
        await until(lambda: capsys.readouterr().out.count("list_doubted") >= 1)
        await until(lambda: capsys.readouterr().out.count("list_doubted") >= 1)
        assert replicas.journal.changes[before:] == []
        replicas.server.faults.clear()
        replicas.put("newer")
        await until(lambda: "newer" in replicas.names)
    assert [name for name, _, _ in replicas.journal.changes[before:]] == ["newer"]


async def test_a_past_that_stays_is_believed_in_the_end(replicas: Replicas) -> None:
    """A backup was restored, and nothing but time can tell: after a minute the list counts."""
    replicas.put(*"abcdef")
    async with replicas.following(IMPATIENT):
        replicas.fault(kind="stale")
        replicas.put("new")
        await until(lambda: "new" in replicas.names)
        replicas.relist()
        slept = sum(replicas.clock.slept)
        await until(lambda: "new" not in replicas.names)
    assert 60 <= sum(replicas.clock.slept) - slept <= 150


async def test_a_replica_in_the_past_is_left_by_a_new_connection(replicas: Replicas) -> None:
    """Behind a balancer the next connection may end at another: so each doubted list
    is the last on its own."""
    replicas.put("a")
    async with replicas.following(IMPATIENT):
        replicas.fault(kind="stale")
        replicas.put("new")
        await until(lambda: "new" in replicas.names)
        replicas.relist()
        asked = len(replicas.clock.slept)
        kept: list[object] = []
        while len(replicas.clock.slept) < asked + 6:
            runner = replicas.server._runner
            assert runner is not None and runner.server is not None
            kept += [each for each in runner.server.connections if each not in kept]
            await asyncio.sleep(0)
    assert len(kept) >= 4


@pytest.mark.parametrize("keep", [0, 2])
async def test_one_shrunken_list_takes_nothing_away(replicas: Replicas, keep: int) -> None:
    """It claims to be whole and of now; a second one tells otherwise."""
    replicas.put(*"abcdef")
    async with replicas.following(IMPATIENT):
        replicas.fault(kind="shrink", keep=keep, times=1)
        replicas.put("new")
        await until(lambda: "new" in replicas.names)
        replicas.fault(kind="gone", verbs=["watch"], times=1)
        await until(lambda: not replicas.server.faults.active)
        replicas.put("newer")
        await until(lambda: "newer" in replicas.names)
    assert len(replicas.journal.changes) == 8


async def test_a_first_list_that_shrank_takes_nothing_away(replicas: Replicas) -> None:
    """A restart at the wrong moment: an earlier process knew more, and nothing of it is gone."""
    replicas.put(*"abcdef")
    replicas.fault(kind="shrink", keep=1, times=1)
    known = [ObjectKey("default", name) for name in "abcdef"]
    async with replicas.following(IMPATIENT, known):
        assert replicas.names == set("abcdef")
    assert not replicas.server.faults.active


async def test_what_went_while_no_process_ran_is_gone_after_two_lists(replicas: Replicas) -> None:
    """What an earlier process knew may be of last week; it costs another list, and little time."""
    replicas.put("a")
    known = [ObjectKey("default", name) for name in "abcdef"]
    async with replicas.following(IMPATIENT, known):
        assert replicas.names == {"a"}
    assert sum(replicas.clock.slept) < 10


async def test_the_list_that_settles_it_comes_by_another_connection(rig: Rig) -> None:
    """The first could have come from a replica that starts: neither the second list nor the watch
    after it may end there again."""
    rig.server.watch_list = "refused"
    rig.server.put(service("a"))
    async with rig.following():
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        rig.server.delete("a", silent=True)
        rig.server.forget_history()
        asked = len(rig.server.requests)
        rig.server.end_watches()
        await until(lambda: rig.ports == {} and rig.server.watching == 1)
    _refused, first, second, watch = rig.server.connections[asked:]
    assert first is not second
    assert first is not watch


async def test_what_two_lists_lack_is_gone(replicas: Replicas) -> None:
    """No event told of it; the second list is believed, and comes soon."""
    replicas.put(*"abcdef")
    async with replicas.following(IMPATIENT):
        replicas.fault(kind="stall", verbs=["watch"])
        for name in "bcdef":
            replicas.delete(name)
        replicas.server.store.compact()
        replicas.server.disconnect()
        replicas.server.faults.clear()
        slept = sum(replicas.clock.slept)
        await until(lambda: replicas.names == {"a"})
    assert sum(replicas.clock.slept) - slept < 10


async def test_events_out_of_order_end_in_the_truth(replicas: Replicas) -> None:
    """The older of two is not taken; a new list settles it."""
    replicas.put(*"ab")
    async with replicas.following(IMPATIENT):
        for number in range(5):
            replicas.fault(kind="reorder", times=1)
            replicas.put(f"old-{number}")
            replicas.delete(f"old-{number}")
            await until(lambda: not replicas.server.faults.active)
            replicas.put(f"new-{number}")
            await until(lambda n=number: f"new-{n}" in replicas.names)  # type: ignore[misc]
    told = [name for name, _, _ in replicas.journal.changes]
    assert not any(name.startswith("old") for name in told)
    assert sorted(told) == ["a", "b", *(f"new-{number}" for number in range(5))]


async def test_a_watch_whose_bookmarks_stop_is_given_up(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Silence of three bookmarks is enough; the next watch goes on from where we were."""
    monkeypatch.setattr("kubeproxy_bpf.api.silence.LEAST_S", 0.5)
    replicas.put("a")
    async with replicas.following(IMPATIENT):
        await asyncio.sleep(0.5)
        replicas.fault(kind="stall", verbs=["watch"])
        replicas.put("b")
        await until(lambda: "bookmarks stopped" in capsys.readouterr().out)
        replicas.server.faults.clear()
        await until(lambda: "b" in replicas.names)


async def test_without_bookmarks_silence_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that sends none is not asked again before the time of the watch."""
    monkeypatch.setattr("kubeproxy_bpf.api.silence.LEAST_S", 0.1)
    server = ApiServer(validate=False, options=Options(bookmark_s=3600))
    await server.start()
    try:
        replicas = Replicas(server)
        replicas.put("a")
        async with replicas.following(IMPATIENT):
            await asyncio.sleep(1.0)
            replicas.put("b")
            await until(lambda: "b" in replicas.names)
        assert replicas.clock.slept == []
    finally:
        await server.stop()
    assert "watch_failed" not in capsys.readouterr().out


def test_the_pulse_is_the_longest_gap() -> None:
    """One bookmark tells nothing, nor does the time before it."""
    from kubeproxy_bpf.api.silence import Pulse

    pulse = Pulse()
    pulse.begin()
    pulse.beat(1000.0)
    assert pulse.limit_s is None
    for now in (1060.0, 1062.0):
        pulse.beat(now)
    assert pulse.limit_s == 180.0
    pulse.begin()
    pulse.beat(5000.0)
    assert pulse.limit_s == 180.0


def test_patience_that_was_needed_once_ends_when_bookmarks_come_again() -> None:
    """Each stream given up doubles it; two bookmarks on one stream show that the pace holds."""
    from kubeproxy_bpf.api.silence import Pulse

    pulse = Pulse()
    for now in (1000.0, 1060.0):
        pulse.beat(now)
    for limit_s in (360.0, 720.0):
        pulse.missed()
        assert pulse.limit_s == limit_s
    pulse.begin()
    pulse.beat(5000.0)
    assert pulse.limit_s == 720.0
    pulse.beat(5060.0)
    assert pulse.limit_s == 180.0


async def test_the_first_silence_is_no_failure(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kind of which there is no news may bring no bookmarks for a while: said, not as an error.
    The second in a row is one."""
    monkeypatch.setattr("kubeproxy_bpf.api.silence.LEAST_S", 0.2)
    async with rig.following():
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        await pulsing(rig)
        await until(lambda: len(rig.server.lists()) == 2)
        told = capsys.readouterr().out
        assert ("watch_silent" in told, "watch_failed" in told) == (True, False)
        await until(lambda: len(rig.server.lists()) == 3)
        assert "watch_failed" in capsys.readouterr().out


@pytest.mark.parametrize("watch_list", ["served", "refused"])
async def test_a_server_that_is_behind_our_position_and_says_nothing_is_listed(
    rig: Rig, watch_list: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restore to smaller versions an API server accepts a watch from a version that it has
    not reached, and is silent until it gets there."""
    monkeypatch.setattr("kubeproxy_bpf.api.silence.LEAST_S", 0.2)
    rig.server.watch_list = watch_list
    rig.server.put(service("a", 80))
    async with rig.following():
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        await pulsing(rig)
        rig.server.restore(5)
        rig.server.put(service("b", 81), silent=True)
        rig.server.end_watches()
        await until(lambda: rig.ports == {"a": 80, "b": 81})


async def test_a_watch_that_brought_nothing_in_all_its_time_is_no_reason_to_resume(
    rig: Rig,
) -> None:
    """Where no bookmarks came before, a server behind our position cannot be told from a quiet
    one: it ends such a watch properly, and from the same position the next would be as silent."""
    rig.server.put(service("a", 80))
    async with rig.following(watch_timeout_s=(0.2, 0.3)):
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        rig.server.restore(5)
        rig.server.put(service("b", 81), silent=True)
        asked = len(rig.server.requests)
        rig.server.end_watches()
        await until(lambda: len(rig.server.requests) > asked and rig.server.watching == 1)
        await asyncio.sleep(0.4)
        rig.server.end_watches()
        await until(lambda: rig.ports == {"a": 80, "b": 81})
