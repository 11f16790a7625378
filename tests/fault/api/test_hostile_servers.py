# SPDX-License-Identifier: Apache-2.0
"""Servers that mean ill: they send us elsewhere, answer without end, and repeat our secrets."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from kubeproxy_bpf.api.client import ApiClient
from kubeproxy_bpf.api.credentials import Credentials
from kubeproxy_bpf.api.decode import Kind
from kubeproxy_bpf.api.reflector import LONGEST_ERROR, Reflector
from kubeproxy_bpf.api.resources import services
from kubeproxy_bpf.api.status import StatusError
from kubeproxy_bpf.api.store import Store
from kubeproxy_bpf.errors import ConfigError

from .conftest import FastClock, Rig, until
from .scripted_server import ScriptedServer, Step, encode, service, status
from .steps import answer, event, stream
from .test_authentication import ask, client_of, url, write_kubeconfig

TOKEN = "q7z-secret-token-x9"


def redirect(code: int, target: ScriptedServer) -> Step:
    async def step(request: web.Request) -> web.Response:
        return web.Response(status=code, headers={"Location": f"{url(target)}{request.path}"})

    return step


@pytest.mark.parametrize("code", [300, 301, 302, 303, 307, 308])
async def test_redirects_are_refused(
    server: ScriptedServer, rig: Rig, clock: FastClock, code: int
) -> None:
    """Nobody else is asked, the token goes nowhere, the state stands, requests stay few."""
    elsewhere = ScriptedServer()
    await elsewhere.start()
    try:
        server.put(service("a"))
        async with rig.following():
            await until(lambda: rig.store.synced and server.watching == 1)
            server.always = redirect(code, elsewhere)
            server.end_watches()
            await until(lambda: sum(clock.slept) >= 60)
            assert set(rig.ports) == {"a"}
            server.always = None
            server.put(service("b"))
            await until(lambda: set(rig.ports) == {"a", "b"})
        assert elsewhere.requests == [] and len(server.requests) < 20
    finally:
        await elsewhere.stop()


async def test_a_redirected_write_is_refused(server: ScriptedServer, tmp_path: Path) -> None:
    """What we send, and who we are, is for the API server alone."""
    elsewhere = ScriptedServer()
    await elsewhere.start()
    try:
        config = write_kubeconfig(tmp_path / "c", url(server), {"token": TOKEN})
        server.always = redirect(307, elsewhere)
        async with client_of(Credentials(config)) as client:
            with pytest.raises(StatusError) as raised:
                await ask(client)
            assert raised.value.status == 307
            with pytest.raises(StatusError):
                await client.write("POST", "/api/v1/services", {}, "application/json")
        assert elsewhere.headers == []
    finally:
        await elsewhere.stop()


def endless(piece: bytes, head: bytes = b"", headers: dict[str, str] | None = None) -> Step:
    """A 200 whose body goes on for as long as anybody reads it."""

    async def step(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers or {})
        await response.prepare(request)
        await response.write(head)
        while True:
            await response.write(piece)

    return step


PAGE = b'{"kind":"ServiceList","metadata":{"resourceVersion":"1"},"items":['
BOMB = gzip.compress(bytes(16 << 20))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(endless(b" " * 65536, PAGE), id="page"),
        pytest.param(endless(BOMB, headers={"Content-Encoding": "gzip"}), id="compressed"),
    ],
)
async def test_a_list_without_end_is_refused(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, body: Step
) -> None:
    """Reading ends at a limit, also of what a few bytes unpack to; then smaller pages are asked."""
    limit = 4 << 20
    monkeypatch.setattr("kubeproxy_bpf.api.reflector.LARGEST_PAGE", limit)
    rig.server.watch_list = "refused"
    rig.server.put(service("a"))
    rig.server.script.extend([None, body, body])
    tracemalloc.start()
    try:
        async with rig.following():
            await until(lambda: set(rig.ports) == {"a"})
        assert tracemalloc.get_traced_memory()[1] < 16 * limit
    finally:
        tracemalloc.stop()
    limits = [request["limit"] for request in rig.server.lists() if "limit" in request]
    assert limits == ["500", "50", "5"]


def trickling(head: bytes = b"") -> Step:
    """A 200 that is never silent and never says anything."""

    async def step(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(head)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)

    return step


async def test_a_list_that_trickles_is_given_up(rig: Rig) -> None:
    """Each byte comes in time, and the page never; smaller ones are asked for until one comes."""
    rig.server.watch_list = "refused"
    rig.server.put(service("a"))
    rig.server.script.extend([None, trickling(PAGE)])
    async with rig.following(page_limit_s=0.5, list_stall_s=0.4):
        await until(lambda: set(rig.ports) == {"a"} and rig.server.watching == 1)
        rig.server.forget_history()
        rig.server.put(service("b"))
        rig.server.end_watches()
        await until(lambda: set(rig.ports) == {"a", "b"})
    limits = [request["limit"] for request in rig.server.lists() if "limit" in request]
    assert limits[:2] == ["500", "50"] and set(limits[2:]) <= {"500"}


async def test_a_watch_that_trickles_is_given_up(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is ended after the time that the server was asked to end it, and a list made."""
    rig.server.put(service("a"))
    async with rig.following(watch_timeout_s=(0.5, 0.6), stall_slack_s=0.3):
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        rig.server.script.append(trickling(b'{"type":"ADDED"'))
        rig.server.end_watches()
        await until(lambda: "outlived" in capsys.readouterr().out)
        rig.server.put(service("b"))
        await until(lambda: set(rig.ports) == {"a", "b"})
    assert len(rig.server.lists()) >= 2


async def test_a_line_without_end_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that does not end ends the watch; the next one goes on from where we were."""
    monkeypatch.setattr("kubeproxy_bpf.api.lines.LONGEST", 1 << 20)
    rig.server.put(service("a"))
    async with rig.following():
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        rig.server.script.append(endless(b"x" * 65536, b'{"type":"ADDED","object":"'))
        rig.server.end_watches()
        await until(lambda: len(rig.server.requests) == 3 and rig.server.watching == 1)
        rig.server.put(service("b"))
        await until(lambda: set(rig.ports) == {"a", "b"})
    assert len(rig.server.lists()) == 1


@pytest.mark.parametrize("watch_list", ["served", "refused"])
async def test_objects_without_end_are_refused(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, watch_list: str
) -> None:
    """Neither events nor pages fill the memory, and what we had stays."""
    monkeypatch.setattr("kubeproxy_bpf.api.intake.MOST_OBJECTS", 2000)
    rig.server.watch_list = watch_list
    rig.server.put(service("a"))
    async with rig.following():
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        rig.server.always = multiplying()
        rig.server.forget_history()
        rig.server.end_watches()
        await until(lambda: len(rig.clock.slept) >= 4)
        assert set(rig.ports) == {"a"}
        rig.server.always = None
        rig.server.put(service("b"))
        await until(lambda: set(rig.ports) == {"a", "b"})


def multiplying() -> Step:
    """A list of ever new pages, or initial events of ever new objects."""
    count = 0

    def fresh() -> dict[str, Any]:
        nonlocal count
        count += 1
        document = service(f"s{count}")
        document["metadata"]["resourceVersion"] = "9999"
        return document

    async def step(request: web.Request) -> web.StreamResponse | None:
        if "watch" not in request.query:
            meta = {"resourceVersion": "9999", "continue": str(count)}
            page = {"kind": "ServiceList", "metadata": meta, "items": [fresh() for _ in range(99)]}
            return web.Response(body=encode(page), content_type="application/json")
        if "sendInitialEvents" not in request.query:
            return web.json_response(status(410, "Expired"), status=410)
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(event("ADDED", fresh()))

    return step


async def test_a_refused_write_does_not_read_without_end(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """What the server says to a write is of no use, so little of it is read."""
    server.always = endless(b"x" * 65536)

    async def always(request: web.Request) -> web.StreamResponse:
        step = server.always
        assert step is not None
        answered = await step(request)
        assert answered is not None
        return answered

    app = web.Application()
    app.router.add_post("/events", always)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        credentials = Credentials(master=f"http://127.0.0.1:{runner.addresses[0][1]}")
        async with client_of(credentials) as client, asyncio.timeout(20):
            await client.write("POST", "/events", {}, "application/json")
    finally:
        await runner.cleanup()


def echo(code: int) -> Step:
    """An error that repeats the credentials, as a proxy that means to help may do."""

    async def step(request: web.Request) -> web.Response:
        message = f"no access with {request.headers.get('Authorization')} {'x' * 5000}"
        return web.json_response(status(code, "Odd", message=message), status=code)

    return step


@pytest.mark.parametrize(
    "step", [echo(500), echo(403), echo(401), stream(encode({"type": "ERROR", "object": 1}))]
)
async def test_errors_of_the_server_tell_no_token(
    server: ScriptedServer, tmp_path: Path, step: Step, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever it says is logged without our token, and not at any length."""
    server.always = step
    said = await log_of(server, tmp_path, {"token": TOKEN}, capsys)
    assert "watch_failed" in said and TOKEN not in said
    assert all(len(line) < LONGEST_ERROR + 200 for line in said.splitlines())


async def test_an_error_event_tells_no_token(
    server: ScriptedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same within a stream."""
    error = status(500, "Odd", message=f"you said Bearer {TOKEN}")
    server.always = stream(encode({"type": "ERROR", "object": error}) + b"\n")
    said = await log_of(server, tmp_path, {"token": TOKEN}, capsys)
    assert "watch_failed" in said and TOKEN not in said


async def test_a_url_with_a_password_is_told_without(
    server: ScriptedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither errors nor the labels of metrics hold it; the server is told who we are."""
    server.always = answer(500)
    address = f"http://alice:{TOKEN}@127.0.0.1:{server.port}"
    meters: list[str] = []
    said = await log_of(server, tmp_path, {}, capsys, address, meters)
    assert "watch_failed" in said and TOKEN not in said and "alice" not in said
    measured = " ".join(meters)
    assert f"'127.0.0.1:{server.port}'" in measured
    assert TOKEN not in measured and "alice" not in measured
    assert server.headers[0]["Authorization"].startswith("Basic ")


@pytest.mark.parametrize("address", ["http://alice:{}@127.0.0.1:1", "http://alice:{}@bad host:x/"])
async def test_a_server_out_of_reach_is_told_without_password(
    server: ScriptedServer, tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A URL that nothing answers at, or that is none, is quoted without its user."""
    said = await log_of(server, tmp_path, {}, capsys, address.format(TOKEN))
    assert TOKEN not in said and "alice" not in said


async def log_of(
    server: ScriptedServer,
    tmp_path: Path,
    user: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    address: str = "",
    meters: list[str] | None = None,
) -> str:
    """What a reflector says in its first failures."""
    config = write_kubeconfig(tmp_path / "config", address or url(server), user)
    credentials = Credentials(config)
    clock = FastClock()
    try:
        await credentials.load()
    except ConfigError as error:
        return str(error)
    async with ApiClient(credentials, clock) as client:
        reflector = Reflector(client, services(), Store().sink(Kind.SERVICE), clock=clock)
        task = asyncio.create_task(reflector.run())
        await until(lambda: len(clock.slept) >= 3 or task.done())
        assert not task.done(), task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if meters is not None:
            meters += [repr(family) for family in client.meters.families()]
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "users:\n- name: a\n  user:\n    token: {}: more\n",
        "users:\n- name: a\n  user:\n    token: *{}\n",
        "users:\n- name: a\n  user: {{token: '{}\n",
        "users:\n- name: a\n  user:\n    token: \t{}\n  x",
        "users: '{}'",
        "{}",
        json.dumps({"users": [{"name": "a", "user": {"token": "{}"}}]}).replace("{", "{{")[:-3],
    ],
)
async def test_a_broken_kubeconfig_is_not_quoted(tmp_path: Path, text: str) -> None:
    """A YAML error tells where, never what stands there."""
    (tmp_path / "config").write_text(text.replace("{{", "{").replace("{}", TOKEN))
    with pytest.raises(ConfigError) as raised:
        await Credentials(str(tmp_path / "config")).load()
    assert TOKEN not in str(raised.value) and str(tmp_path / "config") in str(raised.value)
