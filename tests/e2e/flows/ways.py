# SPDX-License-Identifier: Apache-2.0
"""The ways in which a program opens a socket to an address, and what it learns from it.

Runs inside a place of the sandbox, through ``run_in``. Failures are answers too, by the name of
their errno. Used by the tests of flows; knows neither the table nor the proxy.
"""

from __future__ import annotations

import errno
import socket
from typing import NamedTuple

TIMEOUT_S = 3.0
_SILENCE = "timeout"


class Way(NamedTuple):
    """How the socket is made."""

    protocol: str
    connected: bool = True
    mapped: bool = False
    """An IPv6 socket that dials IPv4 addresses as ::ffff:a.b.c.d."""

    def __str__(self) -> str:
        kind = "connected" if self.connected else "unconnected"
        return f"{self.protocol}-{kind}{'-mapped' if self.mapped else ''}"


class Seen(NamedTuple):
    """What one exchange told: the answer, and who seems to have given it; or an errno."""

    answer: str
    peer: tuple[str, int] | None = None


def ways_of(protocol: str, address: str) -> tuple[Way, ...]:
    """All ways to reach an address by a protocol."""
    plain = [Way(protocol), Way(protocol, connected=False)][: 1 if protocol == "TCP" else 2]
    if ":" in address:
        return tuple(plain)
    return tuple(plain + [way._replace(mapped=True) for way in plain])


def dial(way: Way, address: str, port: int, source: str = "") -> Seen:
    """One exchange on a new socket."""
    with open_socket(way, address, source) as sock:
        try:
            return exchange(sock, way, address, port)
        except TimeoutError:
            return Seen(_SILENCE)
        except OSError as error:
            return Seen(errno.errorcode[error.errno or 0])


def open_socket(way: Way, address: str, source: str = "") -> socket.socket:
    """A socket that fits the way, not yet connected, bound if a source is given."""
    family = socket.AF_INET6 if way.mapped or ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if way.protocol == "TCP" else socket.SOCK_DGRAM
    sock = socket.socket(family, kind)
    sock.settimeout(TIMEOUT_S)
    if source:
        sock.bind((_dialled(way, source), 0))
    return sock


def exchange(
    sock: socket.socket, way: Way, address: str, port: int, request: bytes = b"name\n"
) -> Seen:
    """Ask once; raises what the socket raises."""
    target = (_dialled(way, address), port)
    if way.connected:
        sock.connect(target)
        sock.sendall(request)
        answer, peer = sock.recv(4096), sock.getpeername()
    else:
        sock.sendto(request, target)
        answer, peer = sock.recvfrom(4096)
    return Seen(answer.decode().strip(), (peer[0].removeprefix("::ffff:"), peer[1]))


def _dialled(way: Way, address: str) -> str:
    return f"::ffff:{address}" if way.mapped else address
