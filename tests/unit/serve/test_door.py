# SPDX-License-Identifier: Apache-2.0
"""More connections than a listener keeps: the last ones are served, the first ones go."""

from __future__ import annotations

import asyncio
import socket
from typing import AsyncIterator

import pytest
from aiohttp import web

from kubeproxy_bpf.serve.door import open_door
from kubeproxy_bpf.serve.mux import application, text

MOST = 8


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async def answer(_request: web.Request) -> web.Response:
        return text("ok")

    runner = web.AppRunner(application(answer), access_log=None)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    door = await open_door(runner, listener, MOST)
    yield listener.getsockname()[1]
    door.close()
    await runner.cleanup()


async def ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    return answer


async def is_open(reader: asyncio.StreamReader) -> bool:
    try:
        return bool(await asyncio.wait_for(reader.read(1), 0.05))
    except asyncio.TimeoutError:
        return True
    except ConnectionError:
        return False


async def test_silent_connections_keep_nobody_out(port: int) -> None:
    """However many stand and say nothing, a client that asks is answered, and they stay few."""
    standing = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5 * MOST)]
    assert (await ask(port)).endswith(b"ok")
    lives = [await is_open(reader) for reader, _ in standing]
    assert sum(lives) <= MOST
    assert lives == sorted(lives), "those that came first have to go first"
    for _, writer in standing:
        writer.close()


async def test_connections_that_end_leave_their_place(port: int) -> None:
    """One that stands is not sent away because of others that came and went."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(MOST - 2):
        assert (await ask(port)).endswith(b"ok")
    assert await is_open(reader)
    writer.close()
