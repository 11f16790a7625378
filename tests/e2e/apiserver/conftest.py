# SPDX-License-Identifier: Apache-2.0
"""A running API server in this process, and a plain HTTP client that shares no code with it."""

from __future__ import annotations

import contextlib
import json
from typing import Any, AsyncIterator, NamedTuple

import aiohttp
import pytest

from kubeproxy_bpf.sandbox.apiserver import ApiServer, Options

SERVICES = "/api/v1/namespaces/default/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


class Answer(NamedTuple):
    status: int
    body: Any
    headers: Any


class Watch:
    """The events of one watch response, as decoded lines."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> dict[str, Any]:
        line = await self.response.content.readline()
        assert line, "the watch ended"
        event: dict[str, Any] = json.loads(line)
        return event

    async def names(self, count: int) -> list[tuple[str, str]]:
        """(type, name) of the next events."""
        events = [await self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"]["name"]) for event in events]

    async def until_bookmark(self) -> list[dict[str, Any]]:
        """The events up to the next bookmark, which is the last."""
        events = [await self.next()]
        while events[-1]["type"] != "BOOKMARK":
            events.append(await self.next())
        return events

    async def rest(self) -> list[dict[str, Any]]:
        """The events until the server ends the watch."""
        return [json.loads(line) async for line in self.response.content]


class Client:
    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    async def call(
        self, method: str, path: str, content: object = None, *, headers: Any = None, **query: Any
    ) -> Answer:
        data = content if isinstance(content, (str, bytes)) else json.dumps(content).encode()
        async with self._session.request(
            method,
            self.url + path,
            params={name: str(value) for name, value in query.items()},
            data=None if content is None else data,
            headers={"Content-Type": "application/json", **(headers or {})},
        ) as response:
            text = await response.text()
            is_json = response.content_type == "application/json"
            return Answer(response.status, json.loads(text) if is_json else text, response.headers)

    async def get(self, path: str, **query: Any) -> Answer:
        return await self.call("GET", path, **query)

    async def names(self, path: str, **query: Any) -> list[str]:
        """Names in a list."""
        answer = await self.get(path, **query)
        assert answer.status == 200, answer.body
        return [item["metadata"]["name"] for item in answer.body["items"]]

    async def patch(self, path: str, content: object, kind: str = "merge", **query: Any) -> Answer:
        media = f"application/{kind}-patch+json"
        return await self.call("PATCH", path, content, headers={"Content-Type": media}, **query)

    @contextlib.asynccontextmanager
    async def watch(self, path: str, **query: Any) -> AsyncIterator[Watch]:
        params = {"watch": "true", **{name: str(value) for name, value in query.items()}}
        async with self._session.get(self.url + path, params=params) as response:
            assert response.status == 200, await response.text()
            yield Watch(response)


def service(name: str, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """A small Service."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"ports": [{"port": 80}], **spec},
    }


def endpoint_slice(name: str, *addresses: str) -> dict[str, Any]:
    """A small IPv4 slice of the Service "web"."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses],
    }


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    running = ApiServer(window=50, admin=True, options=Options(bookmark_s=0.1))
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def client(server: ApiServer) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(session, server.url)
