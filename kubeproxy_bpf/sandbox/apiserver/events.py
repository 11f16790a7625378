# SPDX-License-Identifier: Apache-2.0
"""Events in their two API groups: stored as core ``v1``, shown as ``events.k8s.io/v1`` as well.

``event_problems`` is what a cluster demands of those that are written in the newer way, with an
``eventTime``; the older way is hardly judged there either.
"""

from __future__ import annotations

from typing import Any, Iterator

from .status import Json

_LIMITS = {"reportingInstance": 128, "action": 128, "reason": 128}
_NOTE_BYTES = 1024
_TYPES = ("Normal", "Warning")
_FIXED = (
    "involvedObject",
    "reason",
    "message",
    "type",
    "eventTime",
    "action",
    "reportingComponent",
    "reportingInstance",
)

_RENAMED = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_RENAMED_BACK = {new: old for old, new in _RENAMED.items()}


def from_core(obj: Json) -> Json:
    """The events.k8s.io/v1 form of a core Event."""
    renamed = {_RENAMED.get(name, name): value for name, value in obj.items()}
    return {**renamed, "apiVersion": "events.k8s.io/v1", "kind": "Event"}


def to_core(obj: Json) -> Json:
    """The core form of an events.k8s.io/v1 Event."""
    renamed = {_RENAMED_BACK.get(name, name): value for name, value in obj.items()}
    return {**renamed, "apiVersion": "v1", "kind": "Event"}


def event_problems(obj: Json, before: Json | None) -> Iterator[tuple[str, str]]:
    """(field, message) of what is wrong with an Event in its core form."""
    if not obj.get("eventTime"):
        return
    regarding = obj.get("involvedObject") or {}
    if (regarding.get("namespace") or "default") != obj["metadata"].get("namespace"):
        yield "involvedObject.namespace", "Invalid value: does not match event.namespace"
    yield from _texts(obj)
    if obj.get("type") not in _TYPES:
        yield "type", f'Invalid value: "{obj.get("type")}"'
    yield from _series(obj.get("series"))
    if before is not None:
        for field in _FIXED:
            if obj.get(field) != before.get(field):
                yield field, "Invalid value: field is immutable"


def _texts(obj: Json) -> Iterator[tuple[str, str]]:
    if not obj.get("reportingComponent"):
        yield "reportingController", "Required value"
    for field, limit in _LIMITS.items():
        if not obj.get(field):
            yield field, "Required value"
        elif len(obj[field]) > limit:
            yield field, f"Too long: can have at most {limit} characters"
    if len(str(obj.get("message") or "").encode()) > _NOTE_BYTES:
        yield "note", f"Too long: can have at most {_NOTE_BYTES} bytes"


def _series(series: Any) -> Iterator[tuple[str, str]]:
    if series is None:
        return
    if not isinstance(series, dict) or not isinstance(series.get("count"), int):
        yield "series", "Invalid value"
        return
    if series["count"] < 2:
        yield "series.count", "Invalid value: should be at least 2"
    if not series.get("lastObservedTime"):
        yield "series.lastObservedTime", "Required value"
