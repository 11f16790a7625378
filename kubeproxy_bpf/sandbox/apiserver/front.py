# SPDX-License-Identifier: Apache-2.0
"""The HTTP front: routes a request to what it asks for, and turns errors into ``Status``.

Knows HTTP and nothing of objects: lists come from ``listing``, watches from ``watching``, writes go
through ``writing``. ``server.ApiServer`` owns it.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import Awaitable, Callable, Mapping, NamedTuple

from aiohttp import web

from . import discovery
from .faults import Faults
from .listing import page_of
from .query import ListQuery, flag, list_query
from .registry import Registry
from .resources import Target, target_of
from .sending import json_response, send_body
from .status import StatusError, expired, invalid, not_found, too_large_version
from .store import Entry, Event, Store
from .view import JSON, View, not_acceptable, view_of
from .watching import CutConnection, Feed, Sink, serve_watch
from .writing import Writes

log = logging.getLogger(__name__)

_OPENAPI_ASKED = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
# The name asked for is no valid media type; clients refuse it in an answer, as real servers know.
_OPENAPI_ANSWERED = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_HEALTH = ("/healthz", "/livez", "/readyz")


_Handler = Callable[[web.Request, Target, View], Awaitable[web.StreamResponse]]


class Options(NamedTuple):
    """How the front behaves where real servers differ."""

    token: str = ""
    client_ca: bool = False
    """A client certificate is as good as a token; the TLS layer has verified it."""
    insecure_port: bool = False
    """Requests without TLS need no credentials, as once on a port of real servers."""
    bookmark_s: float = 60.0
    watch_timeout_s: float = 1800.0
    watch_list: str = "on"
    """on, rejected (feature gate off) or ignored (a server that does not know the option)."""
    gzip: bool = False


class Front:
    def __init__(self, store: Store, registry: Registry, faults: Faults, options: Options) -> None:
        self._store = store
        self._faults = faults
        self.options = options
        self._documents = discovery.documents()
        self._wakers: set[asyncio.Event] = set()
        self._closing = False
        writes = Writes(store, registry)
        self._handlers: Mapping[str, _Handler] = {
            "get": self.get,
            "list": self.list,
            "watch": self.watch,
            "create": writes.create,
            "update": writes.update,
            "patch": writes.patch,
            "delete": writes.delete,
            "deletecollection": writes.deletecollection,
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except StatusError as error:
            return _status(error)
        except ConnectionError:
            raise
        except Exception as error:
            log.exception("request_failed")
            return _status(StatusError(500, f"Internal error occurred: {error!r}"))

    def wake(self) -> None:
        """Let idle watches look again: faults changed, or the server stops."""
        for waker in self._wakers:
            waker.set()

    def close(self) -> None:
        """End all watches."""
        self._closing = True
        self.wake()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self._authenticate(request)
        target = target_of(request.path)
        if target is None:
            return self._document(request)
        verb = _verb(request, target)
        if slow := self._faults.take("delay", target.resource.plural, verb):
            await asyncio.sleep(slow.delay_s)
        if fault := self._faults.take("status", target.resource.plural, verb):
            raise fault.error()
        view = view_of(request.headers.get("Accept", ""), target.resource)
        return await self._handlers[verb](request, target, view)

    def _authenticate(self, request: web.Request) -> None:
        options = self.options
        if not options.token and not options.client_ca:
            return
        if options.insecure_port and not request.secure:
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if options.token and scheme.lower() == "bearer":
            if hmac.compare_digest(given.encode(), options.token.encode()):
                return
        if options.client_ca and request.transport is not None:
            if request.transport.get_extra_info("peercert"):
                return
        raise StatusError(401, "Unauthorized")

    def _document(self, request: web.Request) -> web.StreamResponse:
        if request.path in _HEALTH:
            return web.Response(text="ok")
        document = self._documents.get(request.path.rstrip("/") or "/")
        if document is None:
            raise StatusError(404, "the server could not find the requested resource")
        accept = request.headers.get("Accept", "")
        if document is discovery.OPENAPI_V2 and _OPENAPI_ASKED in accept:
            # No bytes are an empty protobuf document, which kubectl takes for "nothing to check".
            return web.Response(body=b"", content_type=_OPENAPI_ANSWERED)
        if accept and not any(media in accept for media in (JSON, "*/*", "application/*")):
            raise not_acceptable()
        return json_response(200, document)

    async def get(self, request: web.Request, target: Target, view: View) -> web.StreamResponse:
        return await send_body(
            request, [view.object(self._existing(target).raw)], self._faults, target
        )

    async def list(self, request: web.Request, target: Target, view: View) -> web.StreamResponse:
        query = list_query(request.query, target.resource)
        if self._faults.take("gone", target.resource.plural, "list"):
            raise expired("The provided continue parameter is too old: a fault was asked for")
        if fault := self._faults.take("stale", target.resource.plural, "list"):
            query = _in_the_past(query, fault.version)
        page = page_of(self._store, target, query)
        if (keep := self._shrunken(target, "list")) is not None:
            page = page._replace(entries=page.entries[:keep], token="", remaining=None)
        return await send_body(
            request, view.list_parts(page), self._faults, target, gzip=self.options.gzip
        )

    async def watch(self, request: web.Request, target: Target, view: View) -> web.StreamResponse:
        query = self._watch_query(list_query(request.query, target.resource))
        response = web.StreamResponse(headers={"Content-Type": JSON, "Cache-Control": "no-cache"})
        await response.prepare(request)
        woken = asyncio.Event()
        observers = self._store.table(target.resource).observers

        def observe(_event: Event) -> None:
            woken.set()

        observers.append(observe)
        self._wakers.add(woken)
        try:
            await serve_watch(
                Feed(
                    self._store,
                    target,
                    query,
                    view,
                    self._ceiling_of_watch(target),
                    lambda: self._shrunken(target, "watch"),
                ),
                Sink(response.write, self._faults, target.resource.plural),
                woken,
                timeout_s=query.timeout_s or self.options.watch_timeout_s,
                bookmark_s=self.options.bookmark_s,
                closing=lambda: self._closing,
            )
        except CutConnection:
            if request.transport is not None:
                request.transport.close()
        finally:
            observers.remove(observe)
            self._wakers.discard(woken)
        return response

    def _shrunken(self, target: Target, verb: str) -> int | None:
        fault = self._faults.take("shrink", target.resource.plural, verb)
        return fault.keep if fault else None

    def _ceiling_of_watch(self, target: Target) -> Callable[[], int | None]:
        """None, or where a stale replica stands; it catches up when faults are cleared."""
        faults = self._faults
        fault = faults.take("stale", target.resource.plural, "watch")
        if fault is None:
            return lambda: None
        version, clearings = fault.version, faults.clearings
        return lambda: version if faults.clearings == clearings else None

    def _watch_query(self, query: ListQuery) -> ListQuery:
        if not query.initial_events or self.options.watch_list == "on":
            return query
        if self.options.watch_list == "ignored":
            return query._replace(initial_events=None)
        message = "Forbidden: forbidden for watch unless the WatchList feature gate is enabled"
        raise invalid("ListOptions.meta.k8s.io", "", [("sendInitialEvents", message)])

    def _existing(self, target: Target) -> Entry:
        entry = self._store.get(target.resource, target.key)
        if entry is None:
            raise not_found(target.resource.plural, target.resource.group, target.name)
        return entry


_NAMED_VERBS = {"GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_COLLECTION_VERBS = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}


def _verb(request: web.Request, target: Target) -> str:
    verbs = _NAMED_VERBS if target.name else _COLLECTION_VERBS
    verb = verbs.get(request.method)
    if verb is None:
        raise StatusError(405, "the server does not allow this method on the requested resource")
    if verb in ("get", "list") and flag(request.query, "watch"):
        return "watch"
    return verb


def _in_the_past(query: ListQuery, version: int) -> ListQuery:
    """The same list as a replica gives it that knows of nothing after a version."""
    if query.cursor:
        return query
    if query.version and query.version > version:
        raise too_large_version(query.version, version)
    return query._replace(version=version, match="Exact")


def _status(error: StatusError) -> web.Response:
    response = json_response(error.code, error.body())
    if seconds := error.details.get("retryAfterSeconds"):
        response.headers["Retry-After"] = str(seconds)
    return response
