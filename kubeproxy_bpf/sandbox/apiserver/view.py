# SPDX-License-Identifier: Apache-2.0
"""How objects look on the wire: plain JSON, metadata only, or tables; chosen from ``Accept``.

Objects are stored once; a view renders single objects, lists and watch events from their bytes.
The plain view copies bytes and decodes nothing.
"""

from __future__ import annotations

from typing import Any, Callable, Sequence

import msgspec

from .events import from_core
from .listing import Page
from .resources import Resource
from .status import Json, StatusError
from .store import item_of
from .table import columns_of, row_of

JSON = "application/json"


class View:
    """Plain objects."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource

    def object(self, raw: bytes) -> bytes:
        return raw

    def event(self, kind: str, raw: bytes) -> bytes:
        return b'{"type":"%b","object":%b}\n' % (kind.encode(), self.object(raw))

    def list_parts(self, page: Page) -> list[bytes]:
        """The body of a list, in parts to be joined."""
        head = msgspec.json.encode(self._list_head(page))
        parts = [head[:-1] + b',"items":[']
        items = self.items([entry.raw for entry in page.entries])
        parts += [part for item in items for part in (item, b",")][:-1] if items else []
        return parts + [b"]}\n"]

    def items(self, raws: Sequence[bytes]) -> list[bytes]:
        return [item_of(self.resource, raw) for raw in raws]

    def _list_head(self, page: Page) -> Json:
        return {
            "kind": f"{self.resource.kind}List",
            "apiVersion": self.resource.api_version,
            "metadata": list_meta(page),
        }

    def bookmark(self, version: int, annotations: dict[str, str] | None = None) -> bytes:
        meta: Json = {"resourceVersion": str(version), "creationTimestamp": None}
        if annotations:
            meta["annotations"] = annotations
        head = {"kind": self.resource.kind, "apiVersion": self.resource.api_version}
        obj = msgspec.json.encode({**head, "metadata": meta})
        return b'{"type":"BOOKMARK","object":%b}\n' % obj


class ConvertedView(View):
    """Plain objects of a second API group over the same storage."""

    def __init__(self, resource: Resource, convert: Callable[[Json], Json]) -> None:
        super().__init__(resource)
        self._convert = convert

    def object(self, raw: bytes) -> bytes:
        return msgspec.json.encode(self._convert(msgspec.json.decode(raw)))

    def items(self, raws: Sequence[bytes]) -> list[bytes]:
        return [self.object(raw) for raw in raws]


class MetadataView(View):
    """PartialObjectMetadata, for clients that want no more."""

    HEAD = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}

    def object(self, raw: bytes) -> bytes:
        return msgspec.json.encode({**self.HEAD, "metadata": msgspec.json.decode(raw)["metadata"]})

    def items(self, raws: Sequence[bytes]) -> list[bytes]:
        return [self.object(raw) for raw in raws]

    def _list_head(self, page: Page) -> Json:
        head = {**self.HEAD, "kind": "PartialObjectMetadataList"}
        return {**head, "metadata": list_meta(page)}


class TableView(View):
    """What ``kubectl get`` prints."""

    def __init__(self, resource: Resource, version: str) -> None:
        super().__init__(resource)
        self._version = f"meta.k8s.io/{version}"

    def object(self, raw: bytes) -> bytes:
        obj = msgspec.json.decode(raw)
        meta = {"resourceVersion": obj["metadata"]["resourceVersion"]}
        return msgspec.json.encode(self._table(meta, [obj]))

    def list_parts(self, page: Page) -> list[bytes]:
        objs = [entry.obj for entry in page.entries]
        return [msgspec.json.encode(self._table(list_meta(page), objs))]

    def bookmark(self, version: int, annotations: dict[str, str] | None = None) -> bytes:
        meta: Json = {"resourceVersion": str(version)}
        if annotations:
            meta["annotations"] = annotations
        table = msgspec.json.encode(self._table(meta, []))
        return b'{"type":"BOOKMARK","object":%b}\n' % table

    def _table(self, meta: Json, objs: Sequence[Json]) -> Json:
        partial = {"kind": "PartialObjectMetadata", "apiVersion": self._version}
        return {
            "kind": "Table",
            "apiVersion": self._version,
            "metadata": meta,
            "columnDefinitions": columns_of(self.resource),
            "rows": [
                {
                    "cells": row_of(self.resource, obj),
                    "object": {**partial, "metadata": obj["metadata"]},
                }
                for obj in objs
            ],
        }


def list_meta(page: Page) -> Json:
    meta: Json = {"resourceVersion": str(page.version)}
    if page.token:
        meta["continue"] = page.token
    if page.remaining is not None:
        meta["remainingItemCount"] = page.remaining
    return meta


def view_of(accept: str, resource: Resource) -> View:
    """The first representation that the client accepts and that is offered; 406 when none is."""
    for choice in accept.split(",") if accept.strip() else [JSON]:
        media, _, rest = choice.strip().partition(";")
        if media.strip() not in (JSON, "*/*", "application/*"):
            continue
        options = dict(part.strip().partition("=")[::2] for part in rest.split(";") if part)
        view = _json_view(options, resource)
        if view is not None:
            return view
    raise not_acceptable()


def not_acceptable() -> StatusError:
    return StatusError(
        406,
        "only the following media types are accepted: application/json, "
        "application/json;as=Table, application/json;as=PartialObjectMetadata",
    )


def _json_view(options: dict[str, Any], resource: Resource) -> View | None:
    kind, version = options.get("as"), options.get("v", "v1")
    if kind is None:
        return plain_view(resource)
    if options.get("g") != "meta.k8s.io":
        return None
    if kind == "Table" and version in ("v1", "v1beta1"):
        return TableView(resource, version)
    if kind in ("PartialObjectMetadata", "PartialObjectMetadataList") and version == "v1":
        return MetadataView(resource)
    return None


def plain_view(resource: Resource) -> View:
    return ConvertedView(resource, from_core) if resource.stored_as else View(resource)
