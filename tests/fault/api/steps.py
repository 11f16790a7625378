# SPDX-License-Identifier: Apache-2.0
"""Steps of a scripted server: the odd answers that a real one, or a proxy before it, may give."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from .scripted_server import Step, encode, status


def answer(code: int, reason: str = "Odd", headers: dict[str, str] | None = None) -> Step:
    async def step(request: web.Request) -> web.Response:
        return web.json_response(status(code, reason), status=code, headers=headers)

    return step


def body(data: bytes, content_type: str = "application/json") -> Step:
    async def step(request: web.Request) -> web.Response:
        return web.Response(body=data, content_type=content_type)

    return step


def stream(*pieces: bytes, cut: bool = False, stall: bool = False) -> Step:
    """A 200 with these pieces, then a proper end, a cut connection, or silence."""

    async def step(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        if stall:
            await asyncio.sleep(3600)
        if cut and request.transport is not None:
            request.transport.abort()
        return response

    return step


def refusal(
    code: int, *pieces: bytes, pause_s: float = 0.0, stall: bool = False, cut: bool = False
) -> Step:
    """An error status whose body comes in pieces, stops coming, or is cut."""

    async def step(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=code, headers={"Retry-After": "7"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(pause_s)
        if stall:
            await asyncio.sleep(3600)
        if cut and request.transport is not None:
            request.transport.abort()
        return response

    return step


def event(kind: str, document: dict[str, Any], version: int | str | None = None) -> bytes:
    if version is not None:
        document = {**document, "metadata": {**document["metadata"]}}
        document["metadata"]["resourceVersion"] = str(version)
    return encode({"type": kind, "object": document}) + b"\n"


def gone(version_too_large: bool = False) -> bytes:
    """The ERROR event of a watch whose position the server no longer has, or not yet."""
    if version_too_large:
        details = {"causes": [{"reason": "ResourceVersionTooLarge"}]}
        return encode({"type": "ERROR", "object": status(504, "Timeout", details=details)}) + b"\n"
    return encode({"type": "ERROR", "object": status(410, "Expired")}) + b"\n"
