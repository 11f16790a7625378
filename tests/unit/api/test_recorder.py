# SPDX-License-Identifier: Apache-2.0
"""Events over real HTTP: their shape, their series, and what happens when nobody wants them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any, AsyncIterator, Callable

import msgspec
import pytest
from aiohttp import web

from kubeproxy_bpf.api import recorder as module
from kubeproxy_bpf.api.client import ApiClient
from kubeproxy_bpf.api.credentials import Credentials
from kubeproxy_bpf.api.recorder import WARNING, Happening, Recorder, Regarding
from kubeproxy_bpf.sandbox.apiserver import ApiServer

EVENTS = "/apis/events.k8s.io/v1/events"
WEB = Regarding("Service", "web", "default", "uid-1")
HAPPENED = Happening(WEB, WARNING, "MapFull", "ProgramService", "no room")


class FastClock:
    """Time passes only as a test says, and waiting takes none."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.25

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


class Rig:
    """A recorder that sends to a server of this process."""

    def __init__(self, url: str, client: ApiClient) -> None:
        self.url = url
        self.clock = FastClock()
        self.recorder = Recorder("kube-proxy", "n1", self.clock)
        self.client = client

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)


@asynccontextmanager
async def recording(url: str) -> AsyncIterator[Rig]:
    credentials = Credentials(master=url)
    await credentials.load()
    async with ApiClient(credentials) as client:
        rig = Rig(url, client)
        task = asyncio.create_task(rig.recorder.run(client))
        try:
            yield rig
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Refusing:
    """A server that answers with what it is told to, and remembers what was asked."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.last = 201
        self.asked: list[tuple[str, str, str, Any]] = []
        self.hanging = False
        self.meanwhile: Callable[[], None] = lambda: None

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        if self.hanging:
            await asyncio.Event().wait()
        self.asked.append((request.method, request.path, request.content_type, body))
        return web.json_response({}, status=self.answers.pop(0) if self.answers else self.last)


@asynccontextmanager
async def refusing() -> AsyncIterator[tuple[Refusing, Rig]]:
    server = Refusing()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        async with recording(f"http://127.0.0.1:{port}") as rig:
            yield server, rig
    finally:
        await runner.cleanup()


async def test_an_api_server_shows_the_event() -> None:
    """What kubectl reads: both API groups hold it, with object, words and reporter."""
    server = ApiServer()
    await server.start()
    try:
        async with recording(server.url) as rig:
            rig.recorder.record(HAPPENED)
            events: list[Any] = []
            async with asyncio.timeout(20):
                while not events:
                    async with rig.client.get(EVENTS, (), 5.0) as body:
                        events = msgspec.json.decode(await body.read())["items"]
    finally:
        await server.stop()
    (event,) = events
    assert "default" == event["metadata"]["namespace"]
    assert event["metadata"]["name"].startswith("web.")
    assert "2027-01-15T08:00:00.250000Z" == event["eventTime"]
    assert ("kube-proxy", "kube-proxy-n1") == (
        event["reportingController"],
        event["reportingInstance"],
    )
    assert ("ProgramService", "MapFull", "no room", "Warning") == tuple(
        event[field] for field in ("action", "reason", "note", "type")
    )
    assert event["regarding"] == {
        "kind": "Service",
        "apiVersion": "v1",
        "namespace": "default",
        "name": "web",
        "uid": "uid-1",
    }


async def test_what_repeats_is_a_series_of_one_event() -> None:
    """The second time is told at once, those after it at most every six minutes, none is lost."""
    async with refusing() as (server, rig):
        rig.recorder.record(HAPPENED)
        await rig.until(lambda: len(server.asked) == 1)
        rig.recorder.record(HAPPENED)
        await rig.until(lambda: len(server.asked) == 2)
        method, path, media, body = server.asked[1]
        name = server.asked[0][3]["metadata"]["name"]
        assert ("PATCH", "application/strategic-merge-patch+json") == (method, media)
        assert path == f"/apis/events.k8s.io/v1/namespaces/default/events/{name}"
        assert body == {"series": {"count": 2, "lastObservedTime": "2027-01-15T08:00:00.250000Z"}}
        for _ in range(5):
            rig.recorder.record(HAPPENED)
        await asyncio.sleep(0.05)
        assert 2 == len(server.asked)


async def test_what_repeats_while_it_is_sent_is_counted() -> None:
    """The server hears of both."""
    async with refusing() as (server, rig):
        server.meanwhile = lambda: rig.recorder.record(HAPPENED)
        rig.recorder.record(HAPPENED)
        await rig.until(lambda: len(server.asked) == 2)
        assert 2 == server.asked[1][3]["series"]["count"]


async def test_the_last_count_gets_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happened while no update was due is told when one is."""
    monkeypatch.setattr(module, "SERIES_S", 0.2)
    async with refusing() as (server, rig):
        for _ in range(2):
            rig.recorder.record(HAPPENED)
            await rig.until(lambda: rig.recorder.idle)
        for _ in range(5):
            rig.recorder.record(HAPPENED)
        await rig.until(lambda: len(server.asked) == 3)
        assert 7 == server.asked[2][3]["series"]["count"]


async def test_after_a_quiet_time_it_is_another_event() -> None:
    """A series ends; what comes an hour later has its own first time."""
    async with refusing() as (server, rig):
        rig.recorder.record(HAPPENED)
        rig.clock.now += 3600
        rig.recorder.record(HAPPENED)
        await rig.until(lambda: len(server.asked) == 2)
        assert ["POST", "POST"] == [method for method, *_ in server.asked]
        first, second = (body["metadata"]["name"] for *_, body in server.asked)
        assert first != second


async def test_an_event_that_the_server_forgot_is_made_again() -> None:
    """API servers drop events after an hour."""
    async with refusing() as (server, rig):
        rig.recorder.record(HAPPENED)
        await rig.until(lambda: server.asked)
        server.answers = [404]
        rig.recorder.record(HAPPENED)
        await rig.until(lambda: len(server.asked) == 3)
        assert ["POST", "PATCH", "POST"] == [method for method, *_ in server.asked]
        assert 2 == server.asked[2][3]["series"]["count"]


@pytest.mark.parametrize("status", [403, 404, 422])
async def test_a_refusal_is_final(status: int) -> None:
    """Without the right to make events nothing is repeated and nothing ends."""
    async with refusing() as (server, rig):
        server.last = status
        rig.recorder.record(HAPPENED)
        rig.recorder.record(HAPPENED._replace(note="other"))
        await rig.until(lambda: rig.recorder.dropped == 2)
        assert 2 == len(server.asked)


@pytest.mark.parametrize("status", [500, 503, 429, 408])
async def test_a_fault_of_the_server_is_waited_out(status: int) -> None:
    """It is sent again, a few times; then it is given up."""
    async with refusing() as (server, rig):
        server.answers = [status, status]
        rig.recorder.record(HAPPENED)
        await rig.until(lambda: len(server.asked) == 3)
        assert 0 == rig.recorder.dropped
        server.last = status
        rig.recorder.record(HAPPENED._replace(note="other"))
        await rig.until(lambda: rig.recorder.dropped == 1)
        assert 3 + module.TRIES == len(server.asked)


async def test_an_event_that_was_made_is_not_made_twice() -> None:
    """The answer of the first attempt was lost: 409 says that the event is there."""
    async with refusing() as (server, rig):
        server.answers = [409]
        rig.recorder.record(HAPPENED)
        await rig.until(lambda: rig.recorder.idle)
        assert (1, 0) == (len(server.asked), rig.recorder.dropped)


async def test_credentials_are_renewed_for_an_event() -> None:
    """A 401 is answered with one repetition, as for everything that is read."""
    async with refusing() as (server, rig):
        server.answers = [401]
        rig.recorder.record(HAPPENED)
        await rig.until(lambda: rig.recorder.idle)
        assert ["POST", "POST"] == [method for method, *_ in server.asked]
        assert server.asked[0] == server.asked[1]
        assert 0 == rig.recorder.dropped


async def test_two_events_of_one_moment_have_two_names() -> None:
    """Else the second would be taken for the first, sent again."""
    async with refusing() as (server, rig):
        rig.recorder.record(HAPPENED)
        rig.recorder.record(HAPPENED._replace(note="other"))
        await rig.until(lambda: len(server.asked) == 2)
        first, second = (body["metadata"]["name"] for *_, body in server.asked)
        assert first != second


async def test_nobody_who_listens_ends_nothing() -> None:
    """Whatever goes wrong on the way, it goes wrong for one event."""
    credentials = Credentials(master="http://127.0.0.1:9")
    await credentials.load()
    async with ApiClient(credentials) as client:
        recorder = Recorder("kube-proxy", "n1", FastClock())
        task = asyncio.create_task(recorder.run(client))
        recorder.record(HAPPENED)
        async with asyncio.timeout(20):
            while not recorder.dropped:
                await asyncio.sleep(0.005)
        credentials.connection.host = "http://[bad"
        recorder.record(HAPPENED._replace(note="other"))
        async with asyncio.timeout(20):
            while recorder.dropped < 2:
                await asyncio.sleep(0.005)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_flood_is_cut_off() -> None:
    """A full map may concern every Service; the cluster hears of some, the log of all."""
    recorder = Recorder("kube-proxy", "n1", FastClock())
    for number in range(1000):
        recorder.record(HAPPENED._replace(note=str(number)))
    assert 1000 - module.BURST == recorder.dropped


async def test_what_is_left_at_the_end_is_sent() -> None:
    """Why the process ends may be among it; a server that hangs does not hold it up."""
    async with refusing() as (server, rig):
        late = Recorder("kube-proxy", "n1", rig.clock)
        late.record(HAPPENED)
        await late.finish(rig.client)
        assert 1 == len(server.asked)
        server.last = 500
        late.record(HAPPENED._replace(note="other"))
        await late.finish(rig.client)
        server.hanging = True
        late.record(HAPPENED._replace(note="third"))
        await late.finish(rig.client, limit_s=0.05)


async def test_long_texts_are_cut_to_what_is_allowed() -> None:
    """1,024 bytes of note and 128 characters of reporter, without half a character."""
    async with refusing() as (server, rig):
        recorder = Recorder("kube-proxy", "n" * 200, rig.clock)
        recorder.record(HAPPENED._replace(note="ä" * 1000))
        await recorder.finish(rig.client)
        body = server.asked[0][3]
        assert "ä" * 512 == body["note"]
        assert 128 == len(body["reportingInstance"])
