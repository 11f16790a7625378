# SPDX-License-Identifier: Apache-2.0
"""Real connections to a VIP, and who answered them. Runs inside a place, through ``run_in``.

Failures are answers too, under the names that people know: ``refused``, ``unreachable``,
``timeout``. The demo and the end-to-end tests compare these answers with what they expect.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter
from typing import Literal, NamedTuple

Protocol = Literal["TCP", "UDP"]

_FAILURES = {
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EPERM: "forbidden",
    errno.ECONNRESET: "reset",
}


class Target(NamedTuple):
    """Where to connect to."""

    protocol: Protocol
    address: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


def ask(target: Target, request: bytes = b"name", timeout_s: float = 2.0, source: str = "") -> str:
    """Connect once, send one request, return the answer or the name of the failure."""
    kind = socket.SOCK_STREAM if target.protocol == "TCP" else socket.SOCK_DGRAM
    with socket.socket(target.family, kind) as sock:
        sock.settimeout(timeout_s)
        try:
            if source:
                sock.bind((source, 0))
            sock.connect((target.address, target.port))
            sock.sendall(request + b"\n")
            return sock.recv(65536).decode().strip() or "closed"
        except TimeoutError:
            return "timeout"
        except OSError as error:
            return failure_name(error)


def failure_name(error: OSError) -> str:
    """The short name of a failed connection."""
    known = _FAILURES.get(error.errno or 0)
    return known or errno.errorcode.get(error.errno or 0, str(error))


def ask_often(target: Target, count: int, timeout_s: float = 2.0) -> Counter[str]:
    """Connect ``count`` times, each with a new socket, and count the answers."""
    return Counter(ask(target, timeout_s=timeout_s) for _ in range(count))
