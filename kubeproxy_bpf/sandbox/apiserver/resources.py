# SPDX-License-Identifier: Apache-2.0
"""The kinds that the embedded API server knows, and the paths under which they are served.

Adding a kind is adding a row to ``RESOURCES``. Used by every other module of the package.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple

from .status import Json, StatusError


class Key(NamedTuple):
    """Identity of an object within its resource; no namespace for cluster-scoped kinds."""

    namespace: str
    name: str


class Resource(NamedTuple):
    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    has_status: bool = False
    """Status is written through /status only."""
    fields: tuple[str, ...] = ()
    """Field selectors beside metadata.name and metadata.namespace."""
    stored_as: str = ""
    """Plural of the core resource that holds the objects, when this is a second view of it."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def storage(self) -> str:
        """Name of the table in the store."""
        return self.stored_as or (f"{self.plural}.{self.group}" if self.group else self.plural)


_EVENT_FIELDS = (
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
)

NAMESPACES = Resource(
    "", "v1", "Namespace", "namespaces", False, ("ns",), True, fields=("status.phase",)
)
NODES = Resource("", "v1", "Node", "nodes", False, ("no",), True, fields=("spec.unschedulable",))
SERVICES = Resource(
    "", "v1", "Service", "services", True, ("svc",), True, fields=("spec.clusterIP", "spec.type")
)
PODS = Resource(
    "",
    "v1",
    "Pod",
    "pods",
    True,
    ("po",),
    True,
    fields=(
        "spec.nodeName",
        "spec.hostNetwork",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
)
CONFIGMAPS = Resource("", "v1", "ConfigMap", "configmaps", True, ("cm",))
EVENTS = Resource("", "v1", "Event", "events", True, ("ev",), fields=_EVENT_FIELDS)
EVENTS_V1 = Resource(
    "events.k8s.io",
    "v1",
    "Event",
    "events",
    True,
    ("ev",),
    fields=("regarding.kind", "regarding.namespace", "regarding.name", "regarding.uid")
    + ("reason", "reportingController", "type"),
    stored_as="events",
)
SLICES = Resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
SERVICE_CIDRS = Resource(
    "networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", False, has_status=True
)

RESOURCES: tuple[Resource, ...] = (
    NAMESPACES,
    NODES,
    SERVICES,
    PODS,
    CONFIGMAPS,
    EVENTS,
    EVENTS_V1,
    SLICES,
    SERVICE_CIDRS,
)

_BY_PATH: Mapping[tuple[str, str, str], Resource] = {
    (r.group, r.version, r.plural): r for r in RESOURCES
}
_BY_KIND: Mapping[tuple[str, str], Resource] = {(r.api_version, r.kind): r for r in RESOURCES}


class Target(NamedTuple):
    """What a request path names."""

    resource: Resource
    namespace: str
    name: str
    subresource: str

    @property
    def key(self) -> Key:
        return Key(self.namespace, self.name)

    @property
    def stored(self) -> Resource:
        """The resource in whose form the objects are stored."""
        return EVENTS if self.resource.stored_as else self.resource


def resource_of(obj: Json) -> Resource:
    """The resource that an object belongs to by its apiVersion and kind."""
    version, kind = obj.get("apiVersion", ""), obj.get("kind", "")
    resource = _BY_KIND.get((version, kind))
    if resource is None:
        raise StatusError(400, f'no kind "{kind}" is served in version "{version}"')
    return resource


def target_of(path: str) -> Target | None:
    """The target of a request path, None when the path names no resource that is served."""
    parts = [part for part in path.split("/") if part]
    if parts[:2] == ["api", "v1"]:
        return _target("", "v1", parts[2:])
    if parts[:1] == ["apis"] and len(parts) > 3:
        return _target(parts[1], parts[2], parts[3:])
    return None


def _target(group: str, version: str, rest: list[str]) -> Target | None:
    namespace = ""
    # /namespaces/x is the Namespace, /namespaces/x/status its status, all else lies within x.
    if rest[:1] == ["namespaces"] and len(rest) > 2 and (group, rest[2]) != ("", "status"):
        namespace, rest = rest[1], rest[2:]
    if not 1 <= len(rest) <= 3:
        return None
    resource = _BY_PATH.get((group, version, rest[0]))
    if resource is None or bool(namespace) > resource.namespaced:
        return None
    plural, name, subresource = (rest + ["", ""])[:3]
    if subresource not in ("", "status") or (subresource and not resource.has_status):
        return None
    if name and resource.namespaced and not namespace:
        return None
    return Target(resource, namespace, name, subresource)
