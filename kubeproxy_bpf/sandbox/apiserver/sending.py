# SPDX-License-Identifier: Apache-2.0
"""Answers with whole bodies: small ones at once, large ones in pieces and with their faults."""

from __future__ import annotations

import asyncio
import gzip as gzip_module
from typing import Sequence

import msgspec
from aiohttp import web

from .faults import Faults
from .resources import Target
from .status import Json
from .view import JSON

_PIECE = 1 << 18
_WORTH_COMPRESSING = 128 * 1024


def raw_response(code: int, content: bytes) -> web.Response:
    return web.Response(status=code, body=content, content_type=JSON)


def json_response(code: int, obj: Json) -> web.Response:
    return raw_response(code, msgspec.json.encode(obj))


async def send_body(
    request: web.Request,
    parts: Sequence[bytes],
    faults: Faults,
    target: Target,
    *,
    gzip: bool = False,
) -> web.StreamResponse:
    """Answer 200 with the parts joined."""
    verb = "get" if target.name else "list"
    content = b"".join(parts)
    response = web.StreamResponse(headers={"Content-Type": JSON})
    if gzip and len(content) > _WORTH_COMPRESSING and _accepts_gzip(request):
        content = await asyncio.to_thread(gzip_module.compress, content, 1)
        response.headers["Content-Encoding"] = "gzip"
    whole = len(content)
    broken = faults.take("truncate", target.resource.plural, verb)
    slow = faults.take("slow", target.resource.plural, verb)
    if broken:
        content = content[: whole // 2]
    response.content_length = len(content) if broken and broken.framed else whole
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    piece = slow.chunk_bytes if slow else _PIECE
    view = memoryview(content)
    for start in range(0, len(content), piece):
        await response.write(bytes(view[start : start + piece]))
        if slow:
            await asyncio.sleep(slow.delay_s)
    if broken and not broken.framed and request.transport is not None:
        request.transport.close()
    return response


def _accepts_gzip(request: web.Request) -> bool:
    return "gzip" in request.headers.get("Accept-Encoding", "")
