# SPDX-License-Identifier: Apache-2.0
"""One connection to the API server of a sandbox that is kept for many requests."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

from kubeproxy_bpf.sandbox import namespace
from kubeproxy_bpf.sandbox.layout import API_PORT, Layout

_TIMEOUT_S = 30.0
ABSENT = 404


class Api:
    """Requests, one after the other; not for two threads at once."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, path: str) -> Any:
        return self._request("GET", path, None)

    def put(self, path: str, body: Any) -> None:
        self._request("PUT", path, body)

    def post(self, path: str, body: Any) -> None:
        self._request("POST", path, body)

    def delete(self, path: str) -> None:
        """Delete what may have gone already."""
        self._request("DELETE", path, None, (ABSENT,))

    def _request(self, method: str, path: str, body: Any, fine: tuple[int, ...] = ()) -> Any:
        connection = self._connection or self._connected()
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 400 and answer.status not in fine:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]!r}")
        return json.loads(text)

    def _connected(self) -> http.client.HTTPConnection:
        address = (self._layout.gateway.v4, API_PORT)
        made = http.client.HTTPConnection(*address, timeout=_TIMEOUT_S)
        made.sock = namespace.call(
            self._layout.netns("net"), lambda: socket.create_connection(address, _TIMEOUT_S)
        )
        made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = made
        return made
