# SPDX-License-Identifier: Apache-2.0
"""JSON patch (RFC 6902) and JSON merge patch (RFC 7396). Pure; the target is not changed."""

from __future__ import annotations

import copy
from typing import Any, Sequence

from .status import Json, StatusError


def merge_patch(target: Any, patch: Any) -> Any:
    """Apply a merge patch: null deletes, maps merge, everything else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def json_patch(target: Json, operations: Sequence[Json]) -> Json:
    """Apply the operations in order; 422 when one does not apply, as a real server answers."""
    document: Any = copy.deepcopy(target)
    for operation in operations:
        try:
            document = _applied(document, operation)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            raise StatusError(
                422, f"the server rejected our request due to an error in our request: {error}"
            ) from error
    if not isinstance(document, dict):
        raise StatusError(422, "the patch does not leave an object")
    return document


def _applied(document: Any, operation: Json) -> Any:
    name, path = operation["op"], _steps(operation["path"])
    if name == "test":
        if _get(document, path) != operation.get("value"):
            raise ValueError(f"testing path {operation['path']} failed")
        return document
    if name == "remove":
        return _remove(document, path)
    if name in ("add", "replace"):
        value = copy.deepcopy(operation["value"])
    elif name in ("move", "copy"):
        source = _steps(operation["from"])
        value = copy.deepcopy(_get(document, source))
        document = _remove(document, source) if name == "move" else document
    else:
        raise ValueError(f"unknown operation {name!r}")
    if name == "replace":
        _get(document, path)
    return _set(document, path, value, insert=name != "replace")


def _steps(pointer: str) -> list[str]:
    if not pointer:
        return []
    if not pointer.startswith("/"):
        raise ValueError(f"invalid pointer {pointer!r}")
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/")]


def _index(container: Sequence[Any], step: str, last: int) -> int:
    position = int(step)
    if not 0 <= position <= last:
        raise IndexError(f"index {step} is out of range")
    return position


def _get(document: Any, path: Sequence[str]) -> Any:
    for step in path:
        if isinstance(document, list):
            document = document[_index(document, step, len(document) - 1)]
        else:
            document = document[step]
    return document


def _set(document: Any, path: Sequence[str], value: Any, *, insert: bool) -> Any:
    if not path:
        return value
    parent, step = _get(document, path[:-1]), path[-1]
    if not isinstance(parent, list):
        parent[step] = value
    elif not insert:
        parent[_index(parent, step, len(parent) - 1)] = value
    else:
        parent.insert(len(parent) if step == "-" else _index(parent, step, len(parent)), value)
    return document


def _remove(document: Any, path: Sequence[str]) -> Any:
    parent, step = _get(document, path[:-1]), path[-1]
    del parent[_index(parent, step, len(parent) - 1) if isinstance(parent, list) else step]
    return document
