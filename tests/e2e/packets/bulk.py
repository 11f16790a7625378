# SPDX-License-Identifier: Apache-2.0
"""A program that takes and gives much data, and says what it took.

Started as a plain script (``python -I -S bulk.py PORT``) in the pods. One request per connection:

take N   read N bytes, answer with their SHA-256
give N   send N bytes of ``blocks``, then close

``blocks`` never repeats, so a piece that is lost, doubled or moved changes the digest.
"""

from __future__ import annotations

import hashlib
import socket
import socketserver
import sys
from typing import Iterator

BLOCK = 65536
_FILLING = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(BLOCK // 32))


def blocks(size: int) -> Iterator[bytes]:
    """So many bytes in blocks, each with its own number in front."""
    for number in range(-(-size // BLOCK)):
        block = number.to_bytes(8, "big") + _FILLING[8:]
        yield block[: size - number * BLOCK]


def digest(size: int) -> str:
    """SHA-256 of so many bytes of ``blocks``."""
    found = hashlib.sha256()
    for block in blocks(size):
        found.update(block)
    return found.hexdigest()


def received(sock: socket.socket, size: int) -> str:
    """SHA-256 of the next so many bytes."""
    found = hashlib.sha256()
    while size:
        part = sock.recv(min(size, 1 << 20))
        if not part:
            raise ConnectionError(f"{size} bytes are missing")
        found.update(part)
        size -= len(part)
    return found.hexdigest()


def take(target: tuple[str, int], size: int) -> str:
    """Client: fetch so many bytes; returns the digest of what came."""
    with socket.create_connection(target, 10) as sock:
        sock.sendall(b"give %d\n" % size)
        return received(sock, size)


def give(target: tuple[str, int], size: int) -> str:
    """Client: send so many bytes; returns the digest that the server found."""
    with socket.create_connection(target, 10) as sock:
        sock.sendall(b"take %d\n" % size)
        for block in blocks(size):
            sock.sendall(block)
        return sock.recv(100).decode()


class Conversation(socketserver.BaseRequestHandler):
    """One request, served in a thread of its own."""

    def handle(self) -> None:
        line = b""
        while not line.endswith(b"\n"):
            part = self.request.recv(1)
            if not part:
                return
            line += part
        verb, size = line.split()
        if verb == b"take":
            self.request.sendall(received(self.request, int(size)).encode())
            return
        for block in blocks(int(size)):
            self.request.sendall(block)


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    Server(("::", int(sys.argv[1])), Conversation).serve_forever()
