# SPDX-License-Identifier: Apache-2.0
"""Events as a cluster takes them: what is demanded of them, and how a series goes on."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.apiserver.conftest import Client

EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
CORE = "/api/v1/namespaces/default/events"
SERIES = {"count": 2, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}


def event(**fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "web.1", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "kube-proxy",
        "reportingInstance": "kube-proxy-n1",
        "action": "Listen",
        "reason": "Failed",
        "regarding": {"kind": "Service", "namespace": "default", "name": "web"},
        "note": "no port",
        "type": "Warning",
    } | fields


async def test_an_event_is_shown_in_both_groups(client: Client) -> None:
    """kubectl describe reads the core form."""
    assert 201 == (await client.call("POST", EVENTS, event())).status
    core = (await client.get(f"{CORE}/web.1")).body
    assert ("no port", "web") == (core["message"], core["involvedObject"]["name"])


@pytest.mark.parametrize(
    "fields",
    [
        {"reportingController": ""},
        {"reportingInstance": "n" * 129},
        {"action": ""},
        {"reason": None},
        {"note": "x" * 1025},
        {"type": "Error"},
        {"regarding": {"kind": "Service", "namespace": "other", "name": "web"}},
        {"series": {**SERIES, "count": 1}},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_half_an_event_is_refused(client: Client, fields: dict[str, Any]) -> None:
    """As a cluster does, so that a recorder that works here works there."""
    assert 422 == (await client.call("POST", EVENTS, event(**fields))).status


async def test_a_series_goes_on_by_patches(client: Client) -> None:
    """Count and time of an event change; nothing else may."""
    assert 201 == (await client.call("POST", EVENTS, event())).status
    path = f"{EVENTS}/web.1"
    answer = await client.patch(path, {"series": SERIES}, "strategic-merge")
    assert (200, SERIES) == (answer.status, answer.body["series"])
    assert 422 == (await client.patch(path, {"note": "other"}, "strategic-merge")).status
