# SPDX-License-Identifier: Apache-2.0
"""One watch: initial objects, changes, bookmarks, and its end.

``Feed`` decides which lines a watcher is owed and is free of I/O; ``serve_watch`` writes them out
and waits. A watcher reads the store's log at its own pace: one that falls out of the window gets
the 410 that a real server sends, as an ERROR event.
"""

from __future__ import annotations

import asyncio
from typing import Awaitable, Callable, Iterator

import msgspec

from .faults import Faults
from .query import ListQuery
from .resources import Target
from .status import StatusError, expired, too_large_version
from .store import ADDED, DELETED, MODIFIED, Entry, Event, Store, with_version
from .view import View

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
_BATCH = 200
_BOOKMARK = b'{"type":"BOOKMARK"'


class Feed:
    """The lines that one watcher is owed."""

    def __init__(
        self,
        store: Store,
        target: Target,
        query: ListQuery,
        view: View,
        ceiling: Callable[[], int | None] = lambda: None,
        shrunken: Callable[[], int | None] = lambda: None,
    ) -> None:
        """``ceiling``: the last version that this server knows of; None: the store's.
        ``shrunken``: how many objects the initial events are cut down to; None: all."""
        self._store = store
        self._target = target
        self._query = query
        self._view = view
        self._ceiling = ceiling
        self._shrunken = shrunken
        self._version = self._newest

    def initial(self) -> Iterator[list[bytes]]:
        """The state at the start, in batches; nothing when the watch continues from a version."""
        if self._starts_with_state():
            if self._query.version and self._query.version > self._newest:
                raise too_large_version(self._query.version, self._newest)
            entries = self._store.snapshot(self._target.resource, self._ceiling())
            entries = [entry for entry in entries if self._selects(entry)][: self._shrunken()]
            for start in range(0, len(entries), _BATCH):
                batch = entries[start : start + _BATCH]
                yield [self._view.event(ADDED, entry.raw) for entry in batch]
            if self._query.initial_events and self._query.bookmarks:
                yield [self._view.bookmark(self._version, {INITIAL_EVENTS_END: "true"})]
        elif self._query.version:
            self._version = self._query.version

    @property
    def _newest(self) -> int:
        ceiling = self._ceiling()
        return self._store.version if ceiling is None else ceiling

    @property
    def _ahead(self) -> bool:
        """The watcher has seen more than this server: as a real one, it is silent until it gets
        there. Nothing tells him, which a client has to cope with."""
        return self._version > self._newest

    def _starts_with_state(self) -> bool:
        if self._query.initial_events is None:
            return not self._query.version
        return self._query.initial_events

    def changes(self) -> list[bytes]:
        """Everything that happened since the last call; raises when the log no longer holds it."""
        if self._ahead:
            return []
        events = self._store.events_after(self._target.resource, self._version)
        self._version = newest = self._newest
        lines = (self._line(event) for event in events if event.version <= newest)
        return [line for line in lines if line is not None]

    def bookmark(self) -> list[bytes]:
        if self._ahead or not self._query.bookmarks:
            return []
        return [self._view.bookmark(self._version)]

    def error(self, error: StatusError) -> bytes:
        return b'{"type":"ERROR","object":%b}\n' % msgspec.json.encode(error.body())

    def _selects(self, entry: Entry | None) -> bool:
        if entry is None or self._target.namespace not in ("", entry.key.namespace):
            return False
        if self._target.name not in ("", entry.key.name):
            return False
        selector = self._query.selector
        return not selector or selector.matches(entry.labels, entry.field)

    def _line(self, event: Event) -> bytes | None:
        """The event as this watcher sees it: an object may enter or leave its selection."""
        was = self._selects(event.previous)
        now = event.type != DELETED and self._selects(event.entry)
        if now:
            return self._view.event(MODIFIED if was else ADDED, event.entry.raw)
        if not was or event.previous is None:
            return None
        if event.type == DELETED:
            return self._view.event(DELETED, event.entry.raw)
        raw = with_version(self._target.resource, event.previous, event.version)
        return self._view.event(DELETED, raw)


class CutConnection(Exception):
    """A fault ended the connection in mid-line."""


class Sink:
    """Writes lines to the connection, with the faults that were asked for."""

    def __init__(
        self, write: Callable[[bytes], Awaitable[None]], faults: Faults, resource: str
    ) -> None:
        self._write = write
        self._faults = faults
        self._resource = resource
        self._held: list[bytes] = []

    async def send(self, lines: list[bytes]) -> None:
        while self._faults.pending("stall", self._resource, "watch"):
            await self._faults.changed()
        lines = self._reordered(lines)
        if not lines:
            return
        if self._faults.take("duplicate", self._resource, "watch"):
            lines = [line for line in lines for _ in range(2)]
        if cut := self._faults.take("cut", self._resource, "watch"):
            after = min(cut.after, len(lines) - 1)
            await self._write(b"".join(lines[:after]) + lines[after][: len(lines[after]) // 2])
            raise CutConnection
        await self._write(b"".join(lines))

    def _reordered(self, lines: list[bytes]) -> list[bytes]:
        """The lines backwards, once there are two events; until then they are held back."""
        if not self._held and not self._faults.pending("reorder", self._resource, "watch"):
            return lines
        events = self._held + [line for line in lines if not line.startswith(_BOOKMARK)]
        if len(events) < 2:
            self._held = events
            return []
        self._held = []
        self._faults.take("reorder", self._resource, "watch")
        return events[::-1]

    def gone(self) -> bool:
        return self._faults.take("gone", self._resource, "watch") is not None


async def serve_watch(
    feed: Feed,
    sink: Sink,
    woken: asyncio.Event,
    *,
    timeout_s: float,
    bookmark_s: float,
    closing: Callable[[], bool],
) -> None:
    """Send what the watcher is owed until its time is over; ``woken`` is set by changes."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + timeout_s
    try:
        for batch in feed.initial():
            await sink.send(batch)
        due = clock() + bookmark_s
        while clock() < deadline and not closing():
            woken.clear()
            if sink.gone():
                raise expired("too old resource version: a fault was asked for")
            await sink.send(feed.changes())
            if clock() >= due:
                await sink.send(feed.bookmark())
                due = clock() + bookmark_s
            await _wait(woken, min(deadline, due) - clock())
        await sink.send(feed.changes() + feed.bookmark())
    except StatusError as error:
        await sink.send([feed.error(error)])


async def _wait(woken: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(woken.wait(), max(0.0, seconds))
    except TimeoutError:
        pass
