# SPDX-License-Identifier: Apache-2.0
"""A program that answers every line and datagram with the address and port at which it arrived.

Started as a plain script (``python -I -S responder.py TCP:80 UDP:53 ...``) by the tests of flows:
who answers is told by the address that the packets carried, so one program stands for any number of
backends, and also for the place to which an untranslated address leads. Writes "ready" when all
ports are bound.
"""

from __future__ import annotations

import ipaddress
import selectors
import socket
import sys

_IPV6_RECVPKTINFO = 49
_IPV6_PKTINFO = 50


def text(address: str, port: int) -> str:
    """The notation of the table of flows."""
    address = address.removeprefix("::ffff:")
    return f"{address} {port}" if ":" in address else f"{address}:{port}"


def bound(kind: socket.SocketKind, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, kind)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("::", port))
    return sock


def listener(port: int) -> socket.socket:
    sock = bound(socket.SOCK_STREAM, port)
    sock.listen(1024)
    return sock


def receiver(port: int) -> socket.socket:
    sock = bound(socket.SOCK_DGRAM, port)
    sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    return sock


def accept(sock: socket.socket) -> None:
    """Answer one request and close; nobody keeps a connection open here."""
    connection, _ = sock.accept()
    with connection:
        connection.settimeout(1)
        connection.recv(4096)
        address, port = connection.getsockname()[:2]
        connection.sendall(text(address, port).encode())


def reply(sock: socket.socket) -> None:
    _, ancillary, _, peer = sock.recvmsg(4096, 128)
    (arrived,) = [data for _, kind, data in ancillary if kind == _IPV6_PKTINFO]
    address = str(ipaddress.IPv6Address(arrived[:16]).ipv4_mapped or "")
    address = address or str(ipaddress.IPv6Address(arrived[:16]))
    answer = text(address, sock.getsockname()[1]).encode()
    # The device is left to the routes; the source of the answer is where the question went.
    source = (socket.IPPROTO_IPV6, _IPV6_PKTINFO, arrived[:16] + bytes(4))
    sock.sendmsg([answer], [source], 0, peer)


def main(ports: list[str]) -> None:
    selector = selectors.DefaultSelector()
    for name in ports:
        protocol, _, port = name.partition(":")
        make, on_readable = {"TCP": (listener, accept), "UDP": (receiver, reply)}[protocol]
        selector.register(make(int(port)), selectors.EVENT_READ, on_readable)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            try:
                key.data(key.fileobj)
            except OSError as error:  # a client that left
                print(error, file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
