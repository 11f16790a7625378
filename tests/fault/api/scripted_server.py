# SPDX-License-Identifier: Apache-2.0
"""An API server that does what a test tells it to, over real HTTP on loopback.

It keeps a few objects of one kind and their history, and answers lists and watches from it; before
each request it takes one step of its script, which may answer otherwise. It counts requests.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import deque
from typing import Any, Awaitable, Callable

from aiohttp import web

Step = Callable[[web.Request], Awaitable[web.StreamResponse | None]]

KINDS = {
    "/api/v1/services": "Service",
    "/apis/discovery.k8s.io/v1/endpointslices": "EndpointSlice",
    "/api/v1/nodes": "Node",
    "/api/v1/pods": "Pod",
    "/apis/networking.k8s.io/v1/servicecidrs": "ServiceCIDR",
}


def encode(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def service(name: str, port: Any = 80, **spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": port}]
    spec = {"clusterIP": "10.96.0.10", "ports": ports, **spec}
    return {"metadata": {"name": name, "namespace": "default"}, "spec": spec}


def status(code: int, reason: str, **more: Any) -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, **more}


class ScriptedServer:
    def __init__(self, watch_list: str = "served") -> None:
        """``watch_list``: "served", "refused" (422), or "ignored" (as before 1.27)."""
        self.watch_list = watch_list
        self.version = 100
        self.oldest = 0
        self.bookmark_at_once = True
        self.script: deque[Step | None] = deque()
        self.always: Step | None = None
        self.requests: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.connections: list[object] = []
        """By which each request came."""
        self._objects: dict[str, dict[str, dict[str, Any]]] = {k: {} for k in KINDS.values()}
        self._history: list[tuple[int, str, str, dict[str, Any]]] = []
        self._watches: set[asyncio.Queue[bytes | None]] = set()
        self._site: web.TCPSite | None = None
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        app = web.Application()
        for path in KINDS:
            app.router.add_get(path, self._get)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=tls)
        await self._site.start()
        assert self._site._server is not None
        self.port = self._site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]

    async def stop(self) -> None:
        self.end_watches()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def put(self, document: dict[str, Any], kind: str = "Service", silent: bool = False) -> None:
        """Create or replace an object; ``silent`` tells no watch of it."""
        self.version += 1
        meta = {**document["metadata"], "resourceVersion": str(self.version)}
        document = {"kind": kind, **document, "metadata": meta}
        name = meta["name"]
        event = "MODIFIED" if name in self._objects[kind] else "ADDED"
        self._objects[kind][name] = document
        self._history.append((self.version, kind, event, document))
        if not silent:
            self.send(event, document)

    def delete(self, name: str, kind: str = "Service", silent: bool = False) -> None:
        self.version += 1
        document = self._objects[kind].pop(name)
        meta = {**document["metadata"], "resourceVersion": str(self.version)}
        document = {**document, "metadata": meta}
        self._history.append((self.version, kind, "DELETED", document))
        if not silent:
            self.send("DELETED", document)

    def bookmark(self) -> None:
        self.version += 5
        self.send("BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}})

    def forget_history(self) -> None:
        """Compaction: watches from before now get 410."""
        self.oldest = self.version
        self._history.clear()

    def restore(self, version: int) -> None:
        """Another history, as after a restore from a backup: versions start over."""
        self.version, self.oldest = version, 0
        self._history.clear()
        for objects in self._objects.values():
            for document in objects.values():
                self.version += 1
                document["metadata"]["resourceVersion"] = str(self.version)

    def send(self, event: str, document: dict[str, Any]) -> None:
        self.send_raw(encode({"type": event, "object": document}) + b"\n")

    def send_raw(self, data: bytes) -> None:
        for watch in self._watches:
            watch.put_nowait(data)

    def end_watches(self) -> None:
        for watch in self._watches:
            watch.put_nowait(None)

    @property
    def watching(self) -> int:
        return len(self._watches)

    def lists(self) -> list[dict[str, str]]:
        return [r for r in self.requests if "watch" not in r or "sendInitialEvents" in r]

    def resumed(self) -> list[str]:
        return [r["resourceVersion"] for r in self.requests if "resourceVersion" in r]

    async def _get(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(dict(request.query))
        self.headers.append(dict(request.headers))
        self.connections.append(request.protocol)
        step = self.script.popleft() if self.script else self.always
        answer = None if step is None else await step(request)
        if answer is not None:
            return answer
        if "watch" in request.query:
            return await self._watch(request)
        return self._list(request)

    def _list(self, request: web.Request) -> web.Response:
        kind = KINDS[request.path]
        items = list(self._objects[kind].values())
        first = int(request.query.get("continue", "0"))
        last = first + int(request.query.get("limit", "1000000"))
        meta = {"resourceVersion": str(self.version)}
        if last < len(items):
            meta["continue"] = str(last)
        page = {"kind": f"{kind}List", "metadata": meta, "items": items[first:last]}
        return web.Response(body=encode(page), content_type="application/json")

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        kind = KINDS[request.path]
        initial = "sendInitialEvents" in request.query
        if initial and self.watch_list == "refused":
            return web.json_response(status(422, "Invalid"), status=422)
        since = int(request.query.get("resourceVersion", "0"))
        if not initial and since < self.oldest:
            return web.json_response(status(410, "Expired"), status=410)
        response = web.StreamResponse()
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._watches.add(queue)
        try:
            await response.prepare(request)
            for data in self._backlog(kind, initial, since):
                await response.write(data)
            while (more := await queue.get()) is not None:
                await response.write(more)
        except ConnectionError:
            pass
        finally:
            self._watches.discard(queue)
        return response

    def _backlog(self, kind: str, initial: bool, since: int) -> list[bytes]:
        if initial:
            events = [("ADDED", o) for o in self._objects[kind].values()]
            if self.watch_list == "served" and self.bookmark_at_once:
                end = {"k8s.io/initial-events-end": "true"}
                meta = {"resourceVersion": str(self.version), "annotations": end}
                events.append(("BOOKMARK", {"metadata": meta}))
        else:
            events = [(e, o) for v, k, e, o in self._history if v > since and k == kind]
        return [encode({"type": e, "object": o}) + b"\n" for e, o in events]
