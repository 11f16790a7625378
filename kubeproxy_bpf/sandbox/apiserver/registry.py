# SPDX-License-Identifier: Apache-2.0
"""What a write means: defaults, validation, conflicts, generations, status apart from spec.

Sits between the HTTP front and the store, and is the way in for code in the same process that wants
an object treated as a cluster would. ``Store.put`` is the way around it.
"""

from __future__ import annotations

import uuid
from typing import Any, Callable, NamedTuple

from .defaults import default
from .resources import NAMESPACES, RESOURCES, SERVICES, Key, Resource, resource_of
from .services import ServiceRules
from .status import STALE, Json, StatusError, already_exists, conflict, invalid, not_found
from .store import Entry, Store, encode, key_of, timestamp
from .validation import problems_of


class Written(NamedTuple):
    """The object after a write; a dry run gives the bytes that would have been stored."""

    raw: bytes
    created: bool


_SERVER_OWNED = ("uid", "creationTimestamp", "generation", "resourceVersion", "namespace", "name")


class Registry:
    def __init__(self, store: Store, services: ServiceRules, *, validate: bool = True) -> None:
        self._store = store
        self._services = services
        self._validate = validate

    def create(
        self, resource: Resource, namespace: str, obj: Json, *, dry_run: bool = False
    ) -> Written:
        obj = self._checked(resource, namespace, obj)
        obj = {**obj, "metadata": _named(obj["metadata"])}
        key = key_of(resource, obj)
        if self._store.get(resource, key) is not None:
            raise already_exists(resource.plural, resource.group, key.name)
        self._need_namespace(resource, key)
        if resource.has_status and self._validate and resource.kind != "Node":
            obj.pop("status", None)
        return self._commit(resource, key, obj, None, dry_run)

    def update(
        self,
        resource: Resource,
        key: Key,
        obj: Json,
        *,
        status: bool = False,
        dry_run: bool = False,
    ) -> Written:
        """Replace an object, or with ``status`` only its status."""
        obj = self._checked(resource, key.namespace, obj)
        if obj["metadata"].get("name") != key.name:
            raise StatusError(
                400,
                f"the name of the object ({obj['metadata'].get('name')}) does not match "
                f"the name on the URL ({key.name})",
            )
        entry = self._existing(resource, key)
        self._check_preconditions(resource, entry, obj["metadata"])
        return self._commit(
            resource, key, _merged(resource, entry.obj, obj, status), entry, dry_run
        )

    def patch(
        self,
        resource: Resource,
        key: Key,
        change: Callable[[Json], Json],
        *,
        status: bool = False,
        dry_run: bool = False,
    ) -> Written:
        """Change an object by a function of its present state."""
        entry = self._existing(resource, key)
        return self.update(resource, key, change(entry.obj), status=status, dry_run=dry_run)

    def apply(self, obj: Json) -> Entry:
        """Create or replace an object with its status, as a manifest given to the sandbox."""
        resource = resource_of(obj)
        key = key_of(resource, obj)
        if resource.namespaced and self._store.get(NAMESPACES, Key("", key.namespace)) is None:
            self.apply({**_NAMESPACE, "metadata": {"name": key.namespace}})
        obj = self._checked(resource, key.namespace, obj)
        entry = self._store.get(resource, key)
        if entry is not None:
            status = {"status": entry.obj["status"]} if "status" in entry.obj else {}
            obj = {**status, **obj, "metadata": _kept_meta(entry.obj["metadata"], obj["metadata"])}
        self._commit(resource, key, obj, entry, dry_run=False)
        return self._existing(resource, key)

    def delete(
        self, resource: Resource, key: Key, options: Json | None = None, *, dry_run: bool = False
    ) -> Json:
        """Remove an object at once, whatever grace period is asked for; returns its last state."""
        entry = self._existing(resource, key)
        self._check_preconditions(resource, entry, (options or {}).get("preconditions") or {})
        if dry_run:
            return entry.obj
        if resource is NAMESPACES:
            self._empty_namespace(key.name)
        last = self._store.delete(resource, key)
        return last.obj if last else entry.obj

    def _checked(self, resource: Resource, namespace: str, obj: Any) -> Json:
        """The object with metadata that the rest can rely on, or 400."""
        if not isinstance(obj, dict) or not isinstance(obj.get("metadata"), dict):
            raise StatusError(400, "the request holds no object with metadata")
        if (obj.get("apiVersion"), obj.get("kind")) != (resource.api_version, resource.kind):
            obj = {"apiVersion": resource.api_version, "kind": resource.kind, **obj}
            if (obj["apiVersion"], obj["kind"]) != (resource.api_version, resource.kind):
                raise StatusError(
                    400,
                    f"the object is {obj['apiVersion']} {obj['kind']}, "
                    f"not {resource.api_version} {resource.kind}",
                )
        meta = dict(obj["metadata"])
        if not resource.namespaced:
            meta.pop("namespace", None)
        elif (meta.setdefault("namespace", namespace) or namespace) != namespace:
            raise StatusError(
                400,
                "the namespace of the provided object does not match the namespace sent on the "
                "request",
            )
        return {**obj, "metadata": meta}

    def _existing(self, resource: Resource, key: Key) -> Entry:
        entry = self._store.get(resource, key)
        if entry is None:
            raise not_found(resource.plural, resource.group, key.name)
        return entry

    def _need_namespace(self, resource: Resource, key: Key) -> None:
        if resource.namespaced and self._validate:
            self._existing(NAMESPACES, Key("", key.namespace))

    def _check_preconditions(self, resource: Resource, entry: Entry, meta: Json) -> None:
        version, uid = meta.get("resourceVersion"), meta.get("uid")
        if version and version != str(entry.version):
            raise conflict(resource.plural, resource.group, entry.key.name, STALE)
        if uid and uid != (have := entry.obj["metadata"].get("uid")):
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {have}"
            raise conflict(resource.plural, resource.group, entry.key.name, why)

    def _commit(
        self, resource: Resource, key: Key, obj: Json, entry: Entry | None, dry_run: bool
    ) -> Written:
        before = entry.obj if entry else None
        obj = default(resource, obj, before)
        if resource is SERVICES:
            obj = self._services.completed(key, obj, before, strict=self._validate)
        if self._validate and (problems := problems_of(resource, obj, before)):
            raise invalid(resource.kind, key.name, problems)
        obj = {**obj, "metadata": _stamped(resource, obj, before)}
        if entry is not None and before == obj:
            return Written(entry.raw, False)
        if dry_run:
            return Written(encode(resource, obj), entry is None)
        return Written(self._store.write(resource, key, obj).raw, entry is None)

    def _empty_namespace(self, namespace: str) -> None:
        for resource in RESOURCES:
            if resource.namespaced and not resource.stored_as:
                for entry in list(self._store.snapshot(resource)):
                    if entry.key.namespace == namespace:
                        self._store.delete(resource, entry.key)


_NAMESPACE: Json = {"apiVersion": "v1", "kind": "Namespace"}


def _named(meta: Json) -> Json:
    if meta.get("name"):
        return meta
    if not meta.get("generateName"):
        raise StatusError(422, "name or generateName is required", reason="Invalid")
    return {**meta, "name": meta["generateName"] + uuid.uuid4().hex[:5]}


def _kept_meta(before: Json, wanted: Json) -> Json:
    """Metadata as wanted, but for what belongs to the server."""
    kept = {name: before[name] for name in _SERVER_OWNED if name in before}
    return {**wanted, **kept}


def _merged(resource: Resource, before: Json, wanted: Json, status: bool) -> Json:
    """The new object: a write to /status changes nothing else, any other write not the status."""
    if status:
        meta = {**before["metadata"], **_kept_meta(before["metadata"], wanted["metadata"])}
        return {**before, "metadata": meta, "status": wanted.get("status") or {}}
    merged = {**wanted, "metadata": _kept_meta(before["metadata"], wanted["metadata"])}
    if resource.has_status:
        merged.pop("status", None)
        if "status" in before:
            merged["status"] = before["status"]
    return merged


def _stamped(resource: Resource, obj: Json, before: Json | None) -> Json:
    """Metadata with what the server adds; the version is the store's to give."""
    meta = dict(obj["metadata"])
    if before is None:
        meta.pop("resourceVersion", None)
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = timestamp()
        meta["generation"] = 1
    elif _content(resource, before) != _content(resource, obj):
        meta["generation"] = (before["metadata"].get("generation") or 0) + 1
    return meta


def _content(resource: Resource, obj: Json) -> Json:
    apart = {"metadata", "status"} if resource.has_status else {"metadata"}
    return {name: value for name, value in obj.items() if name not in apart}
