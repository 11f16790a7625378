# SPDX-License-Identifier: Apache-2.0
"""The documents by which clients learn what is served: versions, groups, resources, OpenAPI.

The OpenAPI documents are empty: kubectl then checks nothing and leaves it to the server.
"""

from __future__ import annotations

from .resources import RESOURCES, Resource
from .status import Json

VERSION: Json = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.0+sandbox",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/amd64",
}
OPENAPI_V2: Json = {
    "swagger": "2.0",
    "info": {"title": "Kubernetes", "version": VERSION["gitVersion"]},
    "paths": {},
    "definitions": {},
}
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def documents() -> dict[str, Json]:
    """Every discovery document by its path."""
    found: dict[str, Json] = {
        "/version": VERSION,
        "/api": {
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        },
        "/api/v1": _resource_list("", "v1"),
        "/openapi/v2": OPENAPI_V2,
    }
    groups = sorted({(r.group, r.version) for r in RESOURCES if r.group})
    for group, version in groups:
        found[f"/apis/{group}"] = {"apiVersion": "v1", "kind": "APIGroup", **_group(group, version)}
        found[f"/apis/{group}/{version}"] = _resource_list(group, version)
    found["/apis"] = {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group(group, version) for group, version in groups],
    }
    return found


def _group(group: str, version: str) -> Json:
    served = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [served], "preferredVersion": served}


def _resource_list(group: str, version: str) -> Json:
    resources = [r for r in RESOURCES if (r.group, r.version) == (group, version)]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": [entry for resource in resources for entry in _resource(resource)],
    }


def _resource(resource: Resource) -> list[Json]:
    entry: Json = {
        "name": resource.plural,
        "singularName": resource.kind.lower(),
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": _VERBS,
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    status = {**entry, "name": f"{resource.plural}/status", "singularName": ""}
    status["verbs"] = ["get", "patch", "update"]
    status.pop("shortNames", None)
    return [entry, status] if resource.has_status else [entry]
