# SPDX-License-Identifier: Apache-2.0
"""What clients do with sockets; run through ``Places.run``."""

from __future__ import annotations

import ctypes
import errno
import socket
from contextlib import contextmanager
from typing import Any, Iterator

TIMEOUT_S = 5


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@contextmanager
def opened(address: str, kind: int, protocol: int = 0) -> Iterator[socket.socket]:
    """A socket of the family of an address."""
    with socket.socket(family_of(address), kind, protocol) as client:
        client.settimeout(TIMEOUT_S)
        yield client


def tcp(address: str, port: int = 80, source: str = "") -> tuple[str, str]:
    """Connect; return who answered and what getpeername shows."""
    with opened(address, socket.SOCK_STREAM) as client:
        if source:
            client.bind((source, 0))
        client.connect((address, port))
        return client.recv(100).decode(), client.getpeername()[0]


def udp(address: str, port: int = 80, source: str = "") -> tuple[str, str, str]:
    """Connect and send; return who answered, the sender shown, and the peer shown."""
    with opened(address, socket.SOCK_DGRAM) as client:
        if source:
            client.bind((source, 0))
        client.connect((address, port))
        client.send(b"?")
        answer, sender = client.recvfrom(100)
        return answer.decode(), sender[0], client.getpeername()[0]


def ask(client: socket.socket, address: str, port: int = 80) -> tuple[str, tuple[Any, ...]]:
    """Send a datagram from a socket; return who answered and the sender shown."""
    client.sendto(b"?", (address, port))
    answer, sender = client.recvfrom(100)
    return answer.decode(), sender[:2]


def sendto(address: str, port: int = 80) -> tuple[str, tuple[Any, ...]]:
    """Send one datagram from an unconnected socket of its own."""
    with opened(address, socket.SOCK_DGRAM) as client:
        return ask(client, address, port)


def error_of(function: Any, *args: Any) -> str:
    """The name of the errno with which a function fails, or empty."""
    try:
        function(*args)
    except OSError as error:
        return errno.errorcode[error.errno] if error.errno else type(error).__name__
    return ""


def connect_udp(address: str, port: int = 80) -> str:
    """Connect without sending; return the peer shown."""
    with opened(address, socket.SOCK_DGRAM) as client:
        client.connect((address, port))
        return str(client.getpeername()[0])


def disconnect(client: socket.socket) -> None:
    """Dissolve a datagram socket's connection: connect() to AF_UNSPEC."""
    if ctypes.CDLL(None).connect(client.fileno(), bytes(16), 16) < 0:
        raise OSError("connect to AF_UNSPEC")
