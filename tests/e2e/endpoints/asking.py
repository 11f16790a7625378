# SPDX-License-Identifier: Apache-2.0
"""Ask an HTTP server in a sandbox from one of its places, as load balancers and probes do."""

from __future__ import annotations

import http.client
import json
import time
from functools import partial
from typing import Any, Callable, Mapping, NamedTuple, TypeVar

from kubeproxy_bpf.sandbox.cluster import Sandbox

T = TypeVar("T")

PATIENCE_S = 60.0


class Answer(NamedTuple):
    """What came back; ``status`` is 0 where a connection was refused, or ended without answer."""

    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


REFUSED = Answer(0, {}, "refused")
ENDED = Answer(0, {}, "ended")
"""The server closed while it was asked."""


def ask(
    sandbox: Sandbox,
    place: str,
    host: str,
    port: int,
    path: str = "/",
    method: str = "GET",
    *,
    accept: str = "",
    body: str = "",
) -> Answer:
    """One request from a place."""
    headers = {"Accept": accept} if accept else {}
    return sandbox.run_in(place, partial(_ask, host, port, path, method, headers, body))


def _ask(
    host: str, port: int, path: str, method: str, headers: dict[str, str], body: str
) -> Answer:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    phase = "connect"
    try:
        connection.connect()
        phase = "request"
        connection.request(method, path, body or None, headers)
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read().decode())
    except ConnectionRefusedError:
        return REFUSED
    except ConnectionResetError:
        return ENDED
    except TimeoutError:
        raise TimeoutError(f"{phase} to {host} port {port}") from None
    finally:
        connection.close()


def until(look: Callable[[], T], good: Callable[[T], bool]) -> T:
    """Look until it is good; what was seen last goes into the failure."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        seen = look()
        if good(seen):
            return seen
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
