# SPDX-License-Identifier: Apache-2.0
"""Discovery: what clients read before they ask for objects."""

from __future__ import annotations

import pytest

from .conftest import Client


async def test_every_listed_resource_is_served(client: Client) -> None:
    """Each resource that discovery names can be listed at the path that it implies."""
    groups = (await client.get("/apis")).body["groups"]
    versions = [version["groupVersion"] for group in groups for version in group["versions"]]
    paths = ["/api/v1", *(f"/apis/{version}" for version in versions)]
    found = set()
    for path in paths:
        for resource in (await client.get(path)).body["resources"]:
            if "list" in resource["verbs"]:
                listed = await client.get(f"{path}/{resource['name']}")
                assert listed.body["kind"] == resource["kind"] + "List"
                found.add(f"{path}/{resource['name']}")
    assert "/apis/events.k8s.io/v1/events" in found and len(found) == 9


@pytest.mark.parametrize(
    "path, field, value",
    [
        ("/version", "minor", "36"),
        ("/api", "versions", ["v1"]),
        ("/apis/discovery.k8s.io", "kind", "APIGroup"),
        ("/apis/networking.k8s.io/v1", "groupVersion", "networking.k8s.io/v1"),
        ("/openapi/v2", "swagger", "2.0"),
    ],
)
async def test_documents(client: Client, path: str, field: str, value: object) -> None:
    """The documents have the fields by which clients tell them apart."""
    assert (await client.get(path)).body[field] == value


@pytest.mark.parametrize("path", ["/apis/apps/v1", "/openapi/v3", "/nothing", "/"])
async def test_other_paths_are_not_found(client: Client, path: str) -> None:
    """What is not served is a 404 Status."""
    answer = await client.get(path)
    assert (answer.status, answer.body["reason"]) == (404, "NotFound")


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
async def test_health(client: Client, path: str) -> None:
    """The health paths say ok."""
    assert (await client.get(path)).body == "ok"
