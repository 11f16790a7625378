# SPDX-License-Identifier: Apache-2.0
"""Ask a proxy in a namespace how it is, over its ordinary health port."""

from __future__ import annotations

import http.client
import socket

from kubeproxy_bpf.sandbox import namespace

HEALTH_PORT = 10256
_TIMEOUT_S = 2.0


def healthy(netns: str) -> bool:
    """Whether ``/healthz`` inside the namespace says 200."""
    connection = http.client.HTTPConnection("127.0.0.1", HEALTH_PORT, timeout=_TIMEOUT_S)
    try:
        connection.sock = namespace.call(
            netns, lambda: socket.create_connection(("127.0.0.1", HEALTH_PORT), _TIMEOUT_S)
        )
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
