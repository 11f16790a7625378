# SPDX-License-Identifier: Apache-2.0
"""Versioned objects in memory, as etcd and the watch cache hold them behind a real API server.

Objects are kept as encoded JSON, so that tens of thousands are listed and streamed without being
decoded. Every change gets the next resourceVersion and stays in its table's log for a while:
watches read the log, and the past is rebuilt by undoing it. The store believes everything:
validation, defaults and conflicts are the ``registry``'s business. Synchronous; one event loop.
"""

from __future__ import annotations

import datetime
import uuid
from collections import deque
from typing import Callable, Mapping, NamedTuple

import msgspec

from .resources import NAMESPACES, RESOURCES, Key, Resource, resource_of
from .status import Json, expired, too_large_version

ADDED, MODIFIED, DELETED = "ADDED", "MODIFIED", "DELETED"


class _Meta(msgspec.Struct):
    labels: dict[str, str] | None = None


class _Labelled(msgspec.Struct):
    metadata: _Meta


_LABELS = msgspec.json.Decoder(_Labelled)


class Entry:
    """One version of one object; never changed once it is in the store."""

    __slots__ = ("key", "version", "raw", "_labels")

    def __init__(self, key: Key, version: int, raw: bytes) -> None:
        self.key = key
        self.version = version
        self.raw = raw
        self._labels: Mapping[str, str] | None = None

    @property
    def obj(self) -> Json:
        """A fresh copy that the caller may change."""
        decoded: Json = msgspec.json.decode(self.raw)
        return decoded

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels; none when a test stored something that is not a map of strings."""
        if self._labels is None:
            try:
                self._labels = _LABELS.decode(self.raw).metadata.labels or {}
            except msgspec.ValidationError:
                self._labels = {}
        return self._labels

    def field(self, path: str) -> str:
        """The value of a field for a field selector, empty when absent."""
        if path == "metadata.name":
            return self.key.name
        if path == "metadata.namespace":
            return self.key.namespace
        value: object = self.obj
        for step in path.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, bool):
            return str(value).lower()
        return "" if value is None else str(value)


class Event(NamedTuple):
    version: int
    type: str
    entry: Entry
    """The object after the change; of a deletion its last state, with the deletion's version."""
    previous: Entry | None


Observer = Callable[[Event], None]


class Table:
    """The objects of one resource and the log of their changes."""

    def __init__(self) -> None:
        self.entries: dict[Key, Entry] = {}
        self.log: deque[Event] = deque()
        self.floor = 0
        """Changes up to this version have left the log."""
        self.observers: list[Observer] = []
        self._ordered: list[Entry] | None = None

    def commit(self, event: Event, window: int) -> None:
        if event.type == DELETED:
            del self.entries[event.entry.key]
        else:
            self.entries[event.entry.key] = event.entry
        self._ordered = None
        self.log.append(event)
        while len(self.log) > window:
            self.floor = self.log.popleft().version
        for observer in tuple(self.observers):
            observer(event)

    def ordered(self) -> list[Entry]:
        """All entries in the order of their keys; not to be changed."""
        if self._ordered is None:
            self._ordered = sorted(self.entries.values(), key=lambda entry: entry.key)
        return self._ordered

    def forget(self, version: int) -> None:
        """Drop the log up to a version."""
        while self.log and self.log[0].version <= version:
            self.log.popleft()
        self.floor = max(self.floor, version)

    def reset(self, entries: Mapping[Key, Entry], floor: int) -> None:
        self.entries = dict(entries)
        self.log.clear()
        self.floor = floor
        self._ordered = None


def encode(resource: Resource, obj: Json) -> bytes:
    """The JSON of an object, apiVersion and kind first, which ``item_of`` relies on."""
    head = {"apiVersion": resource.api_version, "kind": resource.kind}
    return msgspec.json.encode({**head, **obj, **head})


def item_of(resource: Resource, raw: bytes) -> bytes:
    """The object as a list holds it: without apiVersion and kind, which stand in the list once."""
    head = f'{{"apiVersion":"{resource.api_version}","kind":"{resource.kind}",'
    return b"{" + raw[len(head) :]


def key_of(resource: Resource, obj: Json) -> Key:
    meta = obj["metadata"]
    return Key((meta.get("namespace") or "default") if resource.namespaced else "", meta["name"])


def timestamp() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """All tables under one counter of versions."""

    def __init__(self, window: int = 10_000) -> None:
        self.version = 1
        self.window = window
        """Changes that each table's log holds; older versions are answered with 410."""
        self._tables = {resource.storage: Table() for resource in RESOURCES}

    def table(self, resource: Resource) -> Table:
        return self._tables[resource.storage]

    def get(self, resource: Resource, key: Key) -> Entry | None:
        return self.table(resource).entries.get(key)

    def put(self, obj: Json) -> Entry:
        """Create or replace an object as it is, and its namespace where that is missing."""
        resource = resource_of(obj)
        key = key_of(resource, obj)
        if key.namespace and self.get(NAMESPACES, Key("", key.namespace)) is None:
            self.put(namespace_object(key.namespace))
        previous = self.get(resource, key)
        was = previous.obj["metadata"] if previous else {}
        meta = dict(obj["metadata"])
        if resource.namespaced:
            meta["namespace"] = key.namespace
        meta["uid"] = meta.get("uid") or was.get("uid") or str(uuid.uuid4())
        meta["creationTimestamp"] = (
            meta.get("creationTimestamp") or was.get("creationTimestamp") or timestamp()
        )
        return self.write(resource, key, {**obj, "metadata": meta})

    def write(self, resource: Resource, key: Key, obj: Json) -> Entry:
        """Commit the next version of an object, whose metadata is complete but for the version."""
        meta = {**obj["metadata"], "resourceVersion": str(self.version + 1)}
        return self.write_raw(resource, key, lambda _: encode(resource, {**obj, "metadata": meta}))

    def write_raw(self, resource: Resource, key: Key, render: Callable[[int], bytes]) -> Entry:
        """Commit bytes that the caller renders for the version given."""
        version = self.version + 1
        entry = Entry(key, version, render(version))
        table = self.table(resource)
        previous = table.entries.get(key)
        self.version = version
        table.commit(Event(version, MODIFIED if previous else ADDED, entry, previous), self.window)
        return entry

    def delete(self, resource: Resource, key: Key) -> Entry | None:
        """Remove an object and return its last state; None when there is none."""
        table = self.table(resource)
        previous = table.entries.get(key)
        if previous is None:
            return None
        self.version += 1
        last = Entry(key, self.version, with_version(resource, previous, self.version))
        table.commit(Event(self.version, DELETED, last, previous), self.window)
        return last

    def events_after(self, resource: Resource, version: int) -> list[Event]:
        """The changes since a version; 410 when some have left the log."""
        table = self.table(resource)
        if version < table.floor:
            raise expired(f"too old resource version: {version} ({table.floor})")
        found = []
        for event in reversed(table.log):
            if event.version <= version:
                break
            found.append(event)
        found.reverse()
        return found

    def snapshot(self, resource: Resource, version: int | None = None) -> list[Entry]:
        """The entries in order, now or as they were at a version that the log still covers."""
        table = self.table(resource)
        if version is None:
            return table.ordered()
        if version > self.version:
            raise too_large_version(version, self.version)
        undone = self.events_after(resource, version)
        if not undone:
            return table.ordered()
        entries = dict(table.entries)
        for event in reversed(undone):
            if event.previous is None:
                del entries[event.entry.key]
            else:
                entries[event.entry.key] = event.previous
        return sorted(entries.values(), key=lambda entry: entry.key)

    def compact(self) -> None:
        """Forget the past: whatever is older than now is answered with 410."""
        for table in self._tables.values():
            table.forget(self.version)

    def renumber(self, first: int) -> None:
        """Give every object a version from ``first`` on and forget the past, as a restore does."""
        self.version = first
        for resource in RESOURCES:
            if resource.stored_as:
                continue
            fresh = {}
            for entry in self.table(resource).ordered():
                self.version += 1
                raw = with_version(resource, entry, self.version)
                fresh[entry.key] = Entry(entry.key, self.version, raw)
            self.table(resource).reset(fresh, 0)
        self.compact()


def with_version(resource: Resource, entry: Entry, version: int) -> bytes:
    obj = entry.obj
    obj["metadata"]["resourceVersion"] = str(version)
    return encode(resource, obj)


def namespace_object(name: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }
