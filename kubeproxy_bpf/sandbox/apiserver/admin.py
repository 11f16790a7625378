# SPDX-License-Identifier: Apache-2.0
"""``/sandbox/faults``: the faults of a server in another process, for tests. Off unless asked for.

POST a ``Fault`` to add one, or for the whole server ``{"kind": "refuse", "seconds": 2}``,
``{"kind": "flap", "times": 3, "up_s": 1, "down_s": 1}``, ``{"kind": "renumber", "first": 1}``,
``{"kind": "compact"}``, ``{"kind": "disconnect"}``, ``{"kind": "token", "token": "…"}``,
``{"kind": "certificate", "cert": "PATH", "key": "PATH"}``.
GET lists, DELETE clears (``?id=`` clears one). It takes no token, since that is one of the things
that it changes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from .faults import Fault

if TYPE_CHECKING:
    from .server import ApiServer


class Refuse(msgspec.Struct, tag="refuse", tag_field="kind"):
    seconds: float


class Flap(msgspec.Struct, tag="flap", tag_field="kind"):
    times: int
    up_s: float
    down_s: float


class Renumber(msgspec.Struct, tag="renumber", tag_field="kind"):
    first: int


class Compact(msgspec.Struct, tag="compact", tag_field="kind"):
    """Forget old events: who watches from there gets 410."""


class Disconnect(msgspec.Struct, tag="disconnect", tag_field="kind"):
    """Close every connection."""


class Certificate(msgspec.Struct, tag="certificate", tag_field="kind"):
    cert: str
    key: str


class Token(msgspec.Struct, tag="token", tag_field="kind"):
    token: str


Action = Refuse | Flap | Renumber | Compact | Disconnect | Certificate | Token


class _Kind(msgspec.Struct):
    kind: str


def add_admin_routes(app: web.Application, server: ApiServer) -> None:
    tasks: set[asyncio.Task[None]] = set()

    async def add(request: web.Request) -> web.Response:
        content = await request.read()
        try:
            if msgspec.json.decode(content, type=_Kind).kind not in _ACTIONS:
                return _json(server.faults.add(msgspec.json.decode(content, type=Fault)))
            action = msgspec.json.decode(content, type=Action)
        except msgspec.DecodeError as error:
            return web.Response(status=400, text=str(error))
        # After the answer, which ends the connection: the action may cut all there are.
        task = asyncio.create_task(_later(server, action))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        answer = _json({})
        answer.force_close()
        return answer

    async def show(_request: web.Request) -> web.Response:
        return _json(server.faults.active)

    async def clear(request: web.Request) -> web.Response:
        fault_id = request.query.get("id")
        server.faults.clear(int(fault_id) if fault_id else None)
        return _json({})

    app.router.add_post("/sandbox/faults", add)
    app.router.add_get("/sandbox/faults", show)
    app.router.add_delete("/sandbox/faults", clear)


_ACTIONS = ("refuse", "flap", "renumber", "compact", "disconnect", "certificate", "token")


async def _later(server: ApiServer, action: Action) -> None:
    await asyncio.sleep(0.01)
    match action:
        case Refuse():
            await server.refuse(action.seconds)
        case Flap():
            await server.flap(action.times, action.up_s, action.down_s)
        case Renumber():
            server.renumber(action.first)
        case Compact():
            server.store.compact()
        case Disconnect():
            server.disconnect()
        case Certificate():
            server.set_certificate(action.cert, action.key)
        case Token():
            server.set_token(action.token)


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
