# SPDX-License-Identifier: Apache-2.0
"""A few blocking requests to the sandbox's API server, from outside its namespaces.

A socket stays in the namespace in which it was made, so a thread steps inside to open the
connection and everything else runs where the caller is. Not used by the proxy, which has a client
of its own (``kubeproxy_bpf.api``).
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any, Iterable, cast

import yaml

from kubeproxy_bpf.errors import ApiError
from kubeproxy_bpf.sandbox import namespace
from kubeproxy_bpf.sandbox.errors import SandboxError
from kubeproxy_bpf.sandbox.inventory import Manifest
from kubeproxy_bpf.sandbox.layout import API_PORT, Layout

_TIMEOUT_S = 10.0
_CONFLICT = 409

# (apiVersion, kind) -> (path of the API, collection, lies in a namespace, has /status)
_KINDS: dict[tuple[str, str], tuple[str, str, bool, bool]] = {
    ("v1", "Namespace"): ("/api/v1", "namespaces", False, False),
    ("v1", "Node"): ("/api/v1", "nodes", False, True),
    ("v1", "Pod"): ("/api/v1", "pods", True, True),
    ("v1", "Service"): ("/api/v1", "services", True, True),
    ("v1", "Endpoints"): ("/api/v1", "endpoints", True, False),
    ("discovery.k8s.io/v1", "EndpointSlice"): (
        "/apis/discovery.k8s.io/v1",
        "endpointslices",
        True,
        False,
    ),
}


class _Connection(http.client.HTTPConnection):
    """HTTP connection that is opened inside a network namespace."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout.gateway.v4, API_PORT, timeout=_TIMEOUT_S)
        self._netns = layout.netns("net")

    def connect(self) -> None:
        address = (self.host, self.port)
        self.sock: socket.socket = namespace.call(
            self._netns, lambda: socket.create_connection(address, _TIMEOUT_S)
        )


class ApiClient:
    """Create, change and delete objects on the API server of one sandbox."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def request(
        self,
        method: str,
        path: str,
        body: Manifest | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        """One request; raises ``ApiError`` with the server's own words."""
        connection = _Connection(self._layout)
        try:
            payload = json.dumps(body).encode() if body is not None else None
            headers = {"Content-Type": content_type, "Accept": "application/json"}
            connection.request(method, path, payload, headers)
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise _error(response.status, raw)
        return cast(Manifest, json.loads(raw)) if raw[:1] == b"{" else {}

    def is_ready(self) -> bool:
        try:
            self.request("GET", "/readyz")
        except (OSError, ApiError, http.client.HTTPException):
            return False
        return True

    def apply(self, manifest: Manifest) -> Manifest:
        """Create an object, or change it to what is written; its status too, if it has one."""
        collection, path, has_status = _paths(manifest)
        try:
            answer = self.request("POST", collection, manifest)
        except ApiError as error:
            if error.status != _CONFLICT:
                raise
            answer = self._patch(path, manifest)
        if has_status and "status" in manifest:
            answer = self._patch(f"{path}/status", {"status": manifest["status"]})
        return answer

    def delete(self, manifest: Manifest) -> None:
        self.request("DELETE", _paths(manifest)[1])

    def list(self, kind: str, api_version: str = "v1") -> list[Manifest]:
        """All objects of a kind, in all namespaces."""
        root, collection, _, _ = _KINDS[api_version, kind]
        return list(self.request("GET", f"{root}/{collection}").get("items") or [])

    def _patch(self, path: str, change: Manifest) -> Manifest:
        return self.request("PATCH", path, change, "application/merge-patch+json")


def _error(status: int, raw: bytes) -> ApiError:
    try:
        told = json.loads(raw)
        return ApiError(status, str(told.get("reason", "")), str(told.get("message", "")))
    except (ValueError, AttributeError):
        return ApiError(status, "", raw[:200].decode(errors="replace"))


def _paths(manifest: Manifest) -> tuple[str, str, bool]:
    """Collection and object path of a manifest, and whether its status is written apart."""
    metadata: dict[str, Any] = manifest.get("metadata") or {}
    key = (str(manifest.get("apiVersion")), str(manifest.get("kind")))
    if key not in _KINDS:
        raise SandboxError(f"{key[1]} of {key[0]} is not a kind that the sandbox knows")
    root, plural, namespaced, has_status = _KINDS[key]
    within = f"/namespaces/{metadata.get('namespace', 'default')}" if namespaced else ""
    collection = f"{root}{within}/{plural}"
    return collection, f"{collection}/{metadata.get('name')}", has_status


def read_manifests(paths: Iterable[Path]) -> list[Manifest]:
    """All objects of YAML files and of directories of them, in order of name."""
    found: list[Manifest] = []
    for path in paths:
        for file in sorted(path.glob("*.yaml")) if path.is_dir() else [path]:
            found += _documents(file)
    return found


def _documents(file: Path) -> list[Manifest]:
    try:
        documents = list(yaml.safe_load_all(file.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise SandboxError(f"{file}: {' '.join(str(error).split())}") from None
    wrong = [doc for doc in documents if doc is not None and not isinstance(doc, dict)]
    if wrong:
        raise SandboxError(f"{file}: holds something that is no object")
    return [document for document in documents if document]
