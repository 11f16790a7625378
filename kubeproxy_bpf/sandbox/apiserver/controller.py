# SPDX-License-Identifier: Apache-2.0
"""Keeps the EndpointSlices of Services with a selector, as the cluster's own controller does.

It follows the store of the server in the same process and writes through the registry. Slices that
others made (by their managed-by label) are left alone.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Iterable

from .defaults import map_of
from .endpoints import Group, groups_of, selects, spread
from .registry import Registry
from .resources import NODES, PODS, SERVICES, SLICES, Key
from .status import Json, StatusError
from .store import Entry, Event, Store

log = logging.getLogger(__name__)

MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
CONTROLLER = "endpointslice-controller.k8s.io"
SERVICE_NAME = "kubernetes.io/service-name"
HEADLESS = "service.kubernetes.io/headless"
ZONE = "topology.kubernetes.io/zone"


class SliceController:
    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._dirty: set[Key] = set()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._observed = ((SERVICES, self._service), (PODS, self._pod), (NODES, self._node))

    def start(self) -> None:
        """Bring all slices up to date, then follow the changes."""
        for resource, observer in self._observed:
            self._store.table(resource).observers.append(observer)
        self._mark(list(self._store.table(SERVICES).entries))
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        for resource, observer in self._observed:
            self._store.table(resource).observers.remove(observer)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _service(self, event: Event) -> None:
        self._mark([event.entry.key])

    def _pod(self, event: Event) -> None:
        """A pod concerns the Services that select it, or did."""
        namespace = event.entry.key.namespace
        versions = [entry for entry in (event.previous, event.entry) if entry]
        self._mark(
            entry.key
            for entry in self._store.table(SERVICES).entries.values()
            if entry.key.namespace == namespace
            and any(selects(entry.obj, version.labels) for version in versions)
        )

    def _node(self, event: Event) -> None:
        """Only a node's zone matters."""
        was = event.previous.labels.get(ZONE) if event.previous else None
        if was != event.entry.labels.get(ZONE):
            self._mark(list(self._store.table(SERVICES).entries))

    def _mark(self, keys: Iterable[Key]) -> None:
        self._dirty.update(keys)
        self._woken.set()

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._dirty:
                key = self._dirty.pop()
                try:
                    self._reconcile(key)
                except (StatusError, KeyError, TypeError, AttributeError) as error:
                    # An object that a test broke on purpose must not stop the others.
                    log.warning("slices_not_made service=%s/%s error=%r", *key, error)
                await asyncio.sleep(0)

    def _reconcile(self, key: Key) -> None:
        entry = self._store.get(SERVICES, key)
        service = entry.obj if entry else None
        present = self._present(key)
        wanted = self._wanted(service) if service else {}
        for group in {*present, *wanted}:
            self._write(key, service, group, present.get(group, []), wanted.get(group))

    def _present(self, key: Key) -> dict[Group, list[Entry]]:
        """Our slices of a Service by what their endpoints have in common."""
        found: dict[Group, list[Entry]] = {}
        for entry in self._store.snapshot(SLICES):
            labels = entry.labels
            ours = labels.get(MANAGED_BY) == CONTROLLER and labels.get(SERVICE_NAME) == key.name
            if ours and entry.key.namespace == key.namespace:
                obj = entry.obj
                ports = tuple((p["name"], p["protocol"], p["port"]) for p in obj.get("ports") or ())
                found.setdefault(Group(obj["addressType"], ports), []).append(entry)
        return found

    def _wanted(self, service: Json) -> dict[Group, dict[str, Json]]:
        if not map_of(service["spec"].get("selector")):
            return {}
        namespace = service["metadata"]["namespace"]
        pods = [
            entry.obj
            for entry in self._store.snapshot(PODS)
            if entry.key.namespace == namespace and selects(service, entry.labels)
        ]
        zones = {n.key.name: n.labels.get(ZONE, "") for n in self._store.snapshot(NODES)}
        groups = groups_of(service, pods, zones)
        for family in service["spec"].get("ipFamilies") or ():
            # Without endpoints there is still an empty slice per family.
            if not any(group.family == family for group in groups):
                groups[Group(family, ())] = {}
        return groups

    def _write(
        self,
        key: Key,
        service: Json | None,
        group: Group,
        present: list[Entry],
        wanted: dict[str, Json] | None,
    ) -> None:
        current = [[e["addresses"][0] for e in entry.obj["endpoints"] or ()] for entry in present]
        slices = spread(current, wanted or {})
        keep_empty = wanted is not None and not any(slices)
        if keep_empty and not slices:
            slices = [[]]
        for index, endpoints in enumerate(slices):
            old = present[index] if index < len(present) else None
            if service is not None and (endpoints or (keep_empty and index == 0)):
                self._put(key, _slice(service, group, endpoints), old)
            elif old is not None:
                self._registry.delete(SLICES, old.key)

    def _put(self, key: Key, obj: Json, old: Entry | None) -> None:
        if old is None:
            self._registry.create(SLICES, key.namespace, obj)
        else:
            obj["metadata"]["name"] = old.key.name
            self._registry.update(SLICES, old.key, obj)


def _slice(service: Json, group: Group, endpoints: list[Json]) -> Json:
    meta = service["metadata"]
    labels = {**map_of(meta.get("labels")), SERVICE_NAME: meta["name"], MANAGED_BY: CONTROLLER}
    if service["spec"].get("clusterIP") == "None":
        labels[HEADLESS] = ""
    owner = {
        "apiVersion": "v1",
        "kind": "Service",
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": f"{meta['name']}-",
            "labels": labels,
            "ownerReferences": [owner],
        },
        "addressType": group.family,
        "endpoints": endpoints,
        "ports": [{"name": n, "protocol": proto, "port": port} for n, proto, port in group.ports],
    }
