# SPDX-License-Identifier: Apache-2.0
"""Strategic merge patch, as far as the kinds of this server need it: what ``kubectl apply`` sends.

Lists of maps merge by the key that their type declares; lists that declare none are replaced. The
directives ``$patch``, ``$retainKeys``, ``$deleteFromPrimitiveList`` and ``$setElementOrder`` are
honoured. Server-side apply uses the same merge: there is no field ownership, so what a manifest no
longer names stays.
"""

from __future__ import annotations

import copy
from typing import Any, Mapping

from .resources import Resource
from .status import Json, StatusError

Path = tuple[str, ...]

# The merge key of a list by its path within the object ([] stands for "in each item").
_MERGE_KEYS: Mapping[str, Mapping[Path, str]] = {
    "Service": {("spec", "ports"): "port", ("status", "conditions"): "type"},
    "Node": {
        ("spec", "taints"): "key",
        ("status", "addresses"): "type",
        ("status", "conditions"): "type",
    },
    "Namespace": {("status", "conditions"): "type"},
    "ServiceCIDR": {("status", "conditions"): "type"},
    "Pod": {
        ("spec", "containers"): "name",
        ("spec", "containers", "[]", "ports"): "containerPort",
        ("spec", "containers", "[]", "env"): "name",
        ("spec", "containers", "[]", "volumeMounts"): "mountPath",
        ("spec", "initContainers"): "name",
        ("spec", "initContainers", "[]", "env"): "name",
        ("spec", "volumes"): "name",
        ("spec", "imagePullSecrets"): "name",
        ("spec", "hostAliases"): "ip",
        ("status", "conditions"): "type",
        ("status", "podIPs"): "ip",
        ("status", "hostIPs"): "ip",
    },
}
_MERGE_KEYS_OF_ALL: Mapping[Path, str] = {("metadata", "ownerReferences"): "uid"}
# Lists of strings that are sets: a patch adds to them.
_SETS: frozenset[Path] = frozenset({("metadata", "finalizers"), ("spec", "podCIDRs")})
_DELETE, _ORDER = "$deleteFromPrimitiveList/", "$setElementOrder/"


def strategic_merge(resource: Resource, target: Json, patch: Json) -> Json:
    keys = {**_MERGE_KEYS_OF_ALL, **_MERGE_KEYS.get(resource.kind, {})}
    return _Merge(keys).maps((), target, patch)


class _Merge:
    def __init__(self, keys: Mapping[Path, str]) -> None:
        self._keys = keys

    def maps(self, path: Path, target: Any, patch: Json) -> Json:
        directive = patch.get("$patch")
        fields = {name: value for name, value in patch.items() if not name.startswith("$")}
        if directive == "delete":
            return {}
        merged = dict(target) if isinstance(target, dict) and directive != "replace" else {}
        if "$retainKeys" in patch:
            merged = {name: merged[name] for name in merged if name in patch["$retainKeys"]}
        for name, value in fields.items():
            self._field(path + (name,), merged, name, value)
        self._list_directives(path, merged, patch)
        return merged

    def _field(self, path: Path, merged: Json, name: str, value: Any) -> None:
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            merged[name] = self.maps(path, merged.get(name), value)
        elif isinstance(value, list):
            merged[name] = self._lists(path, merged.get(name), value)
        else:
            merged[name] = value

    def _lists(self, path: Path, target: Any, patch: list[Any]) -> list[Any]:
        current = target if isinstance(target, list) else []
        if path in _SETS:
            return current + [value for value in patch if value not in current]
        key = self._keys.get(path)
        if key is None or not all(isinstance(item, dict) for item in patch):
            return copy.deepcopy(patch)
        if any(item.get("$patch") == "replace" for item in patch):
            return [item for item in patch if "$patch" not in item]
        return self._by_key(path, key, current, patch)

    def _by_key(self, path: Path, key: str, current: list[Any], patch: list[Json]) -> list[Any]:
        merged = list(current)
        for item in patch:
            if key not in item:
                raise StatusError(400, f"map: {item} does not contain declared merge key: {key}")
            at = next((i for i, old in enumerate(merged) if old.get(key) == item[key]), None)
            if item.get("$patch") == "delete":
                merged = [old for old in merged if old.get(key) != item[key]]
            elif at is None:
                merged.append(self.maps(path + ("[]",), None, item))
            else:
                merged[at] = self.maps(path + ("[]",), merged[at], item)
        return merged

    def _list_directives(self, path: Path, merged: Json, patch: Json) -> None:
        for name, values in patch.items():
            if name.startswith(_DELETE):
                field = name.removeprefix(_DELETE)
                merged[field] = [v for v in merged.get(field) or [] if v not in values]
        for name, order in patch.items():
            field = name.removeprefix(_ORDER)
            if name.startswith(_ORDER) and isinstance(merged.get(field), list):
                merged[field] = _ordered(merged[field], order, self._keys.get(path + (field,)))


def _ordered(items: list[Any], order: list[Any], key: str | None) -> list[Any]:
    """Items in the order asked for; those that it does not name keep their place behind."""
    if key is None:
        wanted = list(order)
        rank = {id(i): wanted.index(i) if i in wanted else len(wanted) for i in items}
    else:
        wanted = [entry.get(key) for entry in order]
        names = {id(i): i.get(key) for i in items}
        rank = {i: wanted.index(n) if n in wanted else len(wanted) for i, n in names.items()}
    return sorted(items, key=lambda item: rank[id(item)])
