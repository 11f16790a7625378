# SPDX-License-Identifier: Apache-2.0
"""The writing verbs over HTTP: reads the body, asks the ``registry``, shows what came of it."""

from __future__ import annotations

from typing import Any, Mapping

from aiohttp import web

from . import body
from .listing import page_of
from .query import list_query
from .registry import Registry
from .resources import Target
from .sending import json_response, raw_response
from .status import Json, invalid
from .store import Store
from .view import JSON, View


class Writes:
    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    async def create(self, request: web.Request, target: Target, view: View) -> web.StreamResponse:
        obj = body.object_of(await request.read(), media_of(request), target.resource)
        written = self._registry.create(
            target.stored, target.namespace, obj, dry_run=_dry_run(request.query)
        )
        return raw_response(201, view.object(written.raw))

    async def update(self, request: web.Request, target: Target, view: View) -> web.StreamResponse:
        obj = body.object_of(await request.read(), media_of(request), target.resource)
        written = self._registry.update(
            target.stored,
            target.key,
            obj,
            status=bool(target.subresource),
            dry_run=_dry_run(request.query),
        )
        return raw_response(200, view.object(written.raw))

    async def patch(self, request: web.Request, target: Target, view: View) -> web.StreamResponse:
        change = body.patch_of(await request.read(), media_of(request), target.resource)
        dry_run = _dry_run(request.query)
        applies = media_of(request) == body.APPLY
        if applies and not request.query.get("fieldManager"):
            required = "Required value: is required for apply patch"
            raise invalid("PatchOptions.meta.k8s.io", "", [("fieldManager", required)])
        if applies and self._store.get(target.stored, target.key) is None:
            obj = change({"metadata": {"name": target.name}})
            written = self._registry.create(target.stored, target.namespace, obj, dry_run=dry_run)
        else:
            written = self._registry.patch(
                target.stored, target.key, change, status=bool(target.subresource), dry_run=dry_run
            )
        return raw_response(201 if written.created else 200, view.object(written.raw))

    async def delete(self, request: web.Request, target: Target, _view: View) -> web.StreamResponse:
        options = await _options(request)
        dry_run = _dry_run(request.query) or bool(options.get("dryRun"))
        last = self._registry.delete(target.stored, target.key, options, dry_run=dry_run)
        details = {"name": target.name, "kind": target.resource.plural}
        details |= {"group": target.resource.group} if target.resource.group else {}
        return json_response(200, _success({**details, "uid": last["metadata"].get("uid", "")}))

    async def deletecollection(
        self, request: web.Request, target: Target, view: View
    ) -> web.StreamResponse:
        options = await _options(request)
        query = list_query(request.query, target.resource)
        page = page_of(self._store, target, query)
        parts = view.list_parts(page)
        if not (_dry_run(request.query) or options.get("dryRun")):
            for entry in page.entries:
                self._registry.delete(target.stored, entry.key)
        return raw_response(200, b"".join(parts))


def _dry_run(query: Mapping[str, str]) -> bool:
    return bool(query.get("dryRun"))


def media_of(request: web.Request) -> str:
    """Type of the body; a client that names none means JSON."""
    return request.content_type if "Content-Type" in request.headers else JSON


async def _options(request: web.Request) -> Json:
    """DeleteOptions, which clients send in the body or not at all."""
    content = await request.read()
    options: Any = body.decoded(content, media_of(request)) if content else {}
    return options if isinstance(options, dict) else {}


def _success(details: Json) -> Json:
    head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    return {**head, "details": details}
