# SPDX-License-Identifier: Apache-2.0
"""Bytes of the API server to objects, in two stages, so that one bad object disturbs no other.

First stage: the envelope (a watch event, a page of a list), whose objects stay raw. Second stage:
one object of a known kind. An object with a wrong type in a field raises ``DecodeError``, which
still says which object it was. Nothing here keeps state or decides what an error means for the
rest: that is the reflector's part.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Callable, NamedTuple, Protocol, TypeVar

import msgspec

from kubeproxy_bpf.api import convert, wire
from kubeproxy_bpf.api.objects import EndpointSlice, Node, ObjectKey, Pod, Service, ServiceCIDR
from kubeproxy_bpf.api.surrogates import without_halves
from kubeproxy_bpf.errors import KubeProxyError

T = TypeVar("T")

ApiObject = Service | EndpointSlice | Node | Pod | ServiceCIDR

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the decoders raise for bad input, whatever is bad about it; RecursionError is for documents
that are nested too deeply."""

INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class Kind(str, Enum):
    """The resources that the proxy follows, by their kind."""

    SERVICE = "Service"
    ENDPOINT_SLICE = "EndpointSlice"
    NODE = "Node"
    POD = "Pod"
    SERVICE_CIDR = "ServiceCIDR"

    def __str__(self) -> str:
        return self.value


class DecodeError(KubeProxyError):
    """An object, or a part of one, that cannot be used.

    ``key`` is None when not even the object's name can be read.
    """

    def __init__(
        self, kind: str, key: ObjectKey | None, version: str, field: str, message: str
    ) -> None:
        super().__init__(kind, key, version, field, message)
        self.kind = kind
        self.key = key
        self.version = version
        self.field = field
        self.message = message

    def __str__(self) -> str:
        name = "/".join(self.key) if self.key else "(unnamed)"
        return f"{self.kind} {name}: {self.field}: {self.message}"


class Malformed(KubeProxyError):
    """An envelope that is not what was asked for: not JSON, cut short, or another document."""

    def __init__(self, what: str, message: str) -> None:
        super().__init__(what, message)
        self.what = what
        self.message = message

    def __str__(self) -> str:
        return f"{self.what}: {self.message}"


class Decoded(NamedTuple):
    key: ObjectKey
    version: str
    object: ApiObject
    problems: tuple[DecodeError, ...]
    """Parts that were left out; the object is good without them."""


class Page(NamedTuple):
    """A page of a list; ``continue_`` is empty on the last one."""

    version: str
    continue_: str
    items: tuple[msgspec.Raw, ...]


class Bookmark(NamedTuple):
    version: str
    ends_initial_events: bool


class _HasMeta(Protocol):
    @property
    def metadata(self) -> wire.Meta: ...


_event = msgspec.json.Decoder(wire.Event)
_page = msgspec.json.Decoder(wire.Page)
_bookmark = msgspec.json.Decoder(wire.Bookmark)
_loose = msgspec.json.Decoder(wire.Loose)
_status = msgspec.json.Decoder(wire.Status)


class ObjectDecoder:
    """Decodes objects of one kind."""

    def __init__(self, kind: Kind, shape: Any, event_shape: Any, turn: Callable[[Any], Any]):
        self.kind = kind
        self._object = msgspec.json.Decoder(shape)
        self._event = msgspec.json.Decoder(event_shape)
        self._turn = turn

    def decode(self, raw: msgspec.Raw) -> Decoded:
        """The object, or DecodeError with its name and the field at fault."""
        try:
            source: _HasMeta = self._object.decode(raw)
        except UNREADABLE as error:
            message, _, field = str(error).partition(" - at `")
            key, version = identify(raw)
            raise DecodeError(self.kind, key, version, field.rstrip("`") or "$", message) from None
        if not source.metadata.name:
            raise DecodeError(self.kind, None, "", "$.metadata.name", "no name")
        return self._decoded(source)

    def decode_change(self, line: bytes) -> Decoded | None:
        """The object of a good ADDED or MODIFIED event, in one pass instead of two.

        None for whatever is not that; the two stages then tell what it is.
        """
        try:
            event = self._event.decode(line)
        except UNREADABLE:
            return None
        if event.type not in ("ADDED", "MODIFIED") or not event.object.metadata.name:
            return None
        return self._decoded(event.object)

    def _decoded(self, source: _HasMeta) -> Decoded:
        result, complaints = self._turn(source)
        key, version = result.key, source.metadata.resource_version or ""
        if not complaints:
            return Decoded(key, version, result, ())
        problems = tuple(DecodeError(self.kind, key, version, *c) for c in complaints)
        return Decoded(key, version, result, problems)


_DECODERS = {
    decoder.kind: decoder
    for decoder in (
        ObjectDecoder(Kind.SERVICE, wire.Service, wire.EventOf[wire.Service], convert.service),
        ObjectDecoder(
            Kind.ENDPOINT_SLICE,
            wire.EndpointSlice,
            wire.EventOf[wire.EndpointSlice],
            convert.endpoint_slice,
        ),
        ObjectDecoder(Kind.NODE, wire.Node, wire.EventOf[wire.Node], convert.node),
        ObjectDecoder(Kind.POD, wire.Pod, wire.EventOf[wire.Pod], convert.pod),
        ObjectDecoder(
            Kind.SERVICE_CIDR,
            wire.ServiceCIDR,
            wire.EventOf[wire.ServiceCIDR],
            convert.service_cidr,
        ),
    )
}


def decoder_of(kind: Kind) -> ObjectDecoder:
    return _DECODERS[kind]


def identify(raw: msgspec.Raw) -> tuple[ObjectKey | None, str]:
    """Key and resourceVersion of any object, as far as they can be read."""
    try:
        meta = _loose.decode(raw).metadata
    except UNREADABLE:
        return None, ""
    version = meta.resource_version if isinstance(meta.resource_version, str) else ""
    namespace = "" if meta.namespace is None else meta.namespace
    if isinstance(meta.name, str) and meta.name and isinstance(namespace, str):
        return ObjectKey(namespace, meta.name), version
    return None, version


def _lenient(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode an envelope; text that is no Unicode inside of it must not hide all the rest."""
    try:
        return decoder.decode(body)
    except RecursionError:
        raise
    except UNREADABLE:
        repaired = without_halves(body)
        if repaired == body:
            raise
        return decoder.decode(repaired)


def parse_event(line: bytes) -> wire.Event:
    """The envelope of one line of a watch; the object stays raw."""
    try:
        return _lenient(_event, line)
    except UNREADABLE as error:
        raise Malformed("watch event", str(error)) from None


def parse_bookmark(raw: msgspec.Raw) -> Bookmark:
    try:
        meta = _bookmark.decode(raw).metadata
    except UNREADABLE as error:
        raise Malformed("bookmark", str(error)) from None
    annotations = meta.annotations or {}
    return Bookmark(meta.resource_version or "", annotations.get(INITIAL_EVENTS_END) == "true")


def parse_page(body: bytes, kind: Kind) -> Page:
    """A page of a list of this kind, and of nothing else.

    A document that merely lacks items must not pass for an empty list, since everything missing
    from a list is deleted.
    """
    what = f"{kind}List"
    try:
        page = _lenient(_page, body)
    except UNREADABLE as error:
        raise Malformed(what, str(error)) from None
    if page.kind != what or page.metadata is None or not page.metadata.resource_version:
        raise Malformed(what, f"got {page.kind or 'a document without kind'}")
    if page.items is msgspec.UNSET:
        raise Malformed(what, "no items")
    return Page(page.metadata.resource_version, page.metadata.continue_ or "", page.items or ())


def parse_status(body: bytes | msgspec.Raw) -> wire.Status | None:
    """The Status in the body of an error, None if the error speaks otherwise (a proxy's HTML)."""
    try:
        return _status.decode(body)
    except UNREADABLE:
        return None
