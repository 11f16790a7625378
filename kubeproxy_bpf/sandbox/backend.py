# SPDX-License-Identifier: Apache-2.0
"""The program in each backend pod: answers every line and every datagram with the pod's name.

Run as a plain script with the standard library alone (``python -I -S backend.py NAME PORT``), so
that it starts in a moment and stays small. Requests, one per line or datagram:

peer            the name, and the address and port that the backend sees as its peer
echo ANYTHING   the same line, as large as it came
GET / HTTP/1.1  the name as an HTTP answer, so that curl works; the connection closes
anything else   the name

TCP connections stay open as long as the peer wants. One socket per protocol serves both families. A
datagram is answered from the address to which it was sent, also where the routes prefer another.
"""

from __future__ import annotations

import selectors
import socket
import sys
from typing import Callable

_MAX_LINE = 65536
_IPV6_RECVPKTINFO = 49
_IPV6_PKTINFO = 50
Peer = tuple[str, int]


def answer(name: str, request: bytes, peer: Peer) -> bytes:
    """Answer one request, without line end."""
    if request.startswith(b"echo "):
        return request
    if request.strip() == b"peer":
        return f"{name} {peer[0]} {peer[1]}".encode()
    return name.encode()


def http_answer(name: str) -> bytes:
    body = f"{name}\n".encode()
    head = f"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def plain(address: tuple[str, int, int, int]) -> Peer:
    """A peer's address as people write it: IPv4 peers of the IPv6 socket arrive mapped."""
    return address[0].removeprefix("::ffff:"), address[1]


class Backend:
    """Both sockets of a backend and its open connections, driven by one selector."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.selector = selectors.DefaultSelector()
        self.pending: dict[socket.socket, bytes] = {}
        listener = _bound(socket.SOCK_STREAM, port)
        listener.listen(1024)
        self._watch(listener, self.accept)
        receiver = _bound(socket.SOCK_DGRAM, port)
        receiver.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        self._watch(receiver, self.reply)

    def _watch(self, sock: socket.socket, on_readable: Callable[[socket.socket], None]) -> None:
        self.selector.register(sock, selectors.EVENT_READ, on_readable)

    def accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # the peer left before its turn
            return
        self.pending[connection] = b""
        self._watch(connection, self.read)

    def reply(self, sock: socket.socket) -> None:
        try:
            request, ancillary, _, peer = sock.recvmsg(_MAX_LINE, socket.CMSG_SPACE(20))
            (arrived,) = (data[:16] for _, kind, data in ancillary if kind == _IPV6_PKTINFO)
            # The address alone: the device is left to the routes.
            source = (socket.IPPROTO_IPV6, _IPV6_PKTINFO, arrived + bytes(4))
            sock.sendmsg([answer(self.name, request, plain(peer))], [source], 0, peer)
        except OSError:  # an ICMP error of an earlier answer, or no way back
            return

    def read(self, connection: socket.socket) -> None:
        try:
            received = connection.recv(_MAX_LINE)
            if not received or self._serve(connection, received):
                self._drop(connection)
        except OSError:
            self._drop(connection)

    def _serve(self, connection: socket.socket, received: bytes) -> bool:
        """Answer all whole lines; true when the conversation is over."""
        *lines, rest = (self.pending[connection] + received).split(b"\n")
        self.pending[connection] = rest
        for line in lines:
            if line.startswith((b"GET ", b"HEAD ")):
                connection.sendall(http_answer(self.name))
                return True
            peer = plain(connection.getpeername())
            connection.sendall(answer(self.name, line, peer) + b"\n")
        return len(rest) > _MAX_LINE

    def _drop(self, connection: socket.socket) -> None:
        self.selector.unregister(connection)
        del self.pending[connection]
        connection.close()

    def run(self) -> None:
        while True:
            for key, _ in self.selector.select():
                key.data(key.fileobj)


def _bound(kind: int, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, kind)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("::", port))
    return sock


if __name__ == "__main__":
    Backend(sys.argv[1], int(sys.argv[2])).run()
