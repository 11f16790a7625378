# SPDX-License-Identifier: Apache-2.0
"""From raw objects and events to a sink: the rules of lists, versions and malformed objects.

Knows nothing of HTTP or time; the reflector feeds it. The rules:

1. A list or an initial stream is collected apart and replaces the old state only when complete,
   and plausible (``api.plausible``).
2. A malformed object is reported once per version and skipped; what was known of it stays.
3. An event that repeats the version known is a duplicate and ignored.
4. An event or bookmark older than what is known is out of order, or of another history (restored
   from a backup): it changes nothing, the reflector must list anew. Versions are compared as
   numbers where both are numbers (Kubernetes 1.35, KEP-5504); where they are not, events are taken
   as they come.
5. Whatever the selectors should have held back counts as absent.
"""

from __future__ import annotations

from typing import Callable, Collection, Mapping, Protocol

import msgspec
import structlog

from kubeproxy_bpf.api.decode import (
    ApiObject,
    Decoded,
    DecodeError,
    Malformed,
    decoder_of,
    identify,
    parse_bookmark,
    parse_event,
    parse_status,
)
from kubeproxy_bpf.api.objects import ObjectKey
from kubeproxy_bpf.api.plausible import Plausibility, Snapshot, older
from kubeproxy_bpf.api.resources import Resource
from kubeproxy_bpf.api.status import status_error
from kubeproxy_bpf.errors import KubeProxyError

log = structlog.get_logger("api")

MOST_OBJECTS = 1_000_000
"""In one list; ends a list that has no end."""


class Sink(Protocol):
    """Where objects of one kind end up."""

    def replace(
        self, objects: Mapping[ObjectKey, ApiObject], keep: Collection[ObjectKey] | None
    ) -> None:
        """Take a complete set. Known objects missing from it go, except those of ``keep``;
        None keeps all."""
        ...

    def upsert(self, key: ObjectKey, new: ApiObject) -> None: ...

    def remove(self, key: ObjectKey) -> None: ...

    def unavailable(self) -> None:
        """This resource cannot be read; what is known of it stays."""
        ...


class HistoryReplaced(KubeProxyError):
    """The server went back in time; only a new list tells what is true."""

    def __init__(self, known: str, got: str) -> None:
        super().__init__(known, got)
        self.known = known
        self.got = got

    def __str__(self) -> str:
        return f"resourceVersion {self.got} came after {self.known}"


class _Collected:
    """A new state, not yet complete."""

    def __init__(self) -> None:
        self.objects: dict[ObjectKey, ApiObject] = {}
        self.versions: dict[ObjectKey, str] = {}
        self.malformed: set[ObjectKey] = set()
        self.unnamed = False

    def add(self, decoded: Decoded) -> None:
        if len(self.objects) >= MOST_OBJECTS:
            raise Malformed("list", f"more than {MOST_OBJECTS} objects")
        self.malformed.discard(decoded.key)
        self.objects[decoded.key] = decoded.object
        self.versions[decoded.key] = decoded.version

    def leave_out(self, key: ObjectKey | None) -> None:
        """There is such an object, but what it says is unknown."""
        if key is None:
            self.unnamed = True
        else:
            self.malformed.add(key)

    def remove(self, key: ObjectKey) -> None:
        self.objects.pop(key, None)
        self.versions.pop(key, None)
        self.malformed.discard(key)


class Intake:
    """Takes lists and events of one resource in and passes on what they change."""

    def __init__(
        self,
        resource: Resource,
        sink: Sink,
        report: Callable[[DecodeError], None],
        plausibility: Plausibility | None = None,
    ) -> None:
        """Without ``plausibility`` every complete state is believed."""
        self._resource = resource
        self._decoder = decoder_of(resource.kind)
        self._sink = sink
        self._report = report
        self._plausibility = plausibility
        self._reported: dict[ObjectKey | None, tuple[str, str]] = {}
        self._versions: dict[ObjectKey, str] = {}
        self._collected: _Collected | None = None
        self.position: str | None = None
        """resourceVersion to watch from; None while a list is needed."""
        self._newest = ""
        """The last position that there was."""
        self.bookmarks = 0
        """How many have told a position."""

    @property
    def collecting(self) -> bool:
        return self._collected is not None

    def begin(self) -> None:
        """Start to collect a new state; what was collected and not committed is dropped."""
        self._collected = _Collected()

    def commit(self, version: str) -> None:
        """The collected state is complete, as of this resourceVersion; Doubt if it is refused."""
        collected, self._collected = self._collected, None
        assert collected is not None
        keep = None if collected.unnamed else collected.malformed
        if self._plausibility is not None:
            known = Snapshot(self._newest, self._versions)
            got = Snapshot(version, collected.versions, keep)
            version = self._plausibility.check(known, got)
        self._versions = collected.versions
        present = collected.versions.keys() | collected.malformed
        self._reported = {k: v for k, v in self._reported.items() if k is None or k in present}
        self.position = self._newest = version
        self._sink.replace(collected.objects, keep)

    def forget_position(self) -> None:
        self.position = None

    def add(self, raw: msgspec.Raw) -> None:
        """One object of the state being collected."""
        assert self._collected is not None
        try:
            decoded = self._decoder.decode(raw)
        except DecodeError as error:
            self._complain(error)
            self._collected.leave_out(error.key)
        else:
            self._collect(decoded)

    def event(self, line: bytes) -> None:
        """One line of a watch. StatusError for an ERROR event, Malformed for no event at all."""
        decoded = self._decoder.decode_change(line)
        if decoded is not None:
            self._changed(decoded)
            return
        event = parse_event(line)
        match event.type:
            case "ADDED" | "MODIFIED":
                self._unreadable(event.object)
            case "DELETED":
                self._deleted(event.object)
            case "BOOKMARK":
                self._bookmark(event.object)
            case "ERROR":
                raise status_error(500, "watch error", parse_status(event.object))
            case unknown:
                log.warning("event_type_unknown", kind=self._resource.kind, type=unknown)

    def _changed(self, decoded: Decoded) -> None:
        if self._collected is not None:
            self._collect(decoded)
            return
        known = self._versions.get(decoded.key)
        if known and known == decoded.version:
            return
        if known is not None:
            _expect_after(known, decoded.version)
        self._expect_now(decoded.version)
        self._complain_of_parts(decoded)
        self._take(decoded)
        self._advance(decoded.version)

    def _unreadable(self, raw: msgspec.Raw) -> None:
        """A change to something that the one-pass decoder refused; now say what is wrong."""
        if self._collected is not None:
            self.add(raw)
            return
        try:
            self._changed(self._decoder.decode(raw))
        except DecodeError as error:
            self._complain(error)
            self._advance(error.version)

    def _collect(self, decoded: Decoded) -> None:
        assert self._collected is not None
        self._complain_of_parts(decoded)
        if self._resource.wanted(decoded.object):
            self._collected.add(decoded)

    def _deleted(self, raw: msgspec.Raw) -> None:
        """Only the name must be readable."""
        key, version = identify(raw)
        if key is None:
            self._complain(self._unnamed(version))
            return
        if self._collected is not None:
            self._collected.remove(key)
            return
        known = self._versions.get(key)
        if known is not None:
            _expect_after(known, version)
        if known != version:
            self._expect_now(version)
        self._drop(key)
        # Some servers repeat the object's last version here instead of the deletion's own.
        if known != version:
            self._advance(version)

    def _bookmark(self, raw: msgspec.Raw) -> None:
        """A new position, or the end of the initial events."""
        bookmark = parse_bookmark(raw)
        if self._collected is None:
            self.bookmarks += 1
            self._advance(bookmark.version)
        elif bookmark.ends_initial_events:
            if not bookmark.version:
                raise Malformed("bookmark", "no resourceVersion")
            self.commit(bookmark.version)

    def unavailable(self) -> None:
        self._sink.unavailable()

    def _take(self, decoded: Decoded) -> None:
        if not self._resource.wanted(decoded.object):
            self._drop(decoded.key)
            return
        self._versions[decoded.key] = decoded.version
        self._sink.upsert(decoded.key, decoded.object)

    def _drop(self, key: ObjectKey) -> None:
        self._reported.pop(key, None)
        self._versions.pop(key, None)
        self._sink.remove(key)

    def _advance(self, version: str) -> None:
        if not version:
            return
        self._expect_now(version)
        self.position = self._newest = version

    def _expect_now(self, version: str) -> None:
        """Nothing that a watch brings is older than what it brought before."""
        if self.position is not None:
            _expect_after(self.position, version)

    def _complain_of_parts(self, decoded: Decoded) -> None:
        # The first stands for all: a slice may hold a thousand bad addresses.
        for problem in decoded.problems[:1]:
            self._complain(problem)

    def _complain(self, error: DecodeError) -> None:
        # Without a name or version, equal text is taken for the same object version.
        told = (error.version, "" if error.key and error.version else str(error))
        if self._reported.get(error.key) != told:
            self._reported[error.key] = told
            self._report(error)

    def _unnamed(self, version: str) -> DecodeError:
        kind = self._resource.kind
        return DecodeError(kind, None, version, "$.metadata.name", "DELETED without a name")


def _expect_after(known: str, version: str) -> None:
    if older(version, known):
        raise HistoryReplaced(known, version)
