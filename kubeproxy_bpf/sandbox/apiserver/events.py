# SPDX-License-Identifier: Apache-2.0
"""Events in their two API groups: stored as core ``v1``, shown as ``events.k8s.io/v1`` as well."""

from __future__ import annotations

from .status import Json

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
