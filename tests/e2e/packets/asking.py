# SPDX-License-Identifier: Apache-2.0
"""Exchanges with a backend over new sockets, and what they tell: who answered, and whom it saw.

Runs inside a place of the sandbox, through ``run_in``; knows neither table nor proxy. A reply from
another address than the one that was dialled is no answer but a fault, and is named as such.
"""

from __future__ import annotations

import errno
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Collection, NamedTuple

TIMEOUT_S = 3.0
"""For a repetition as well: a network may lose a datagram, and its client asks again."""
AT_LEAST = 16
"""So many exchanges, though all that were waited for have answered: others may be among them."""
SILENCE_S = 0.8
"""How long nothing may come for it to count as silence; what is too late only looks like it."""


class Target(NamedTuple):
    """Where to connect to, and how."""

    protocol: str
    address: str
    port: int
    connected: bool = True
    """Whether UDP connects its socket: only then does it learn of refusals."""


class Told(NamedTuple):
    """One exchange: the backend's name and the peer that it saw, or the name of a failure."""

    name: str
    peer: str = ""


def ask(target: Target, timeout_s: float = TIMEOUT_S, source_port: int = 0) -> Told:
    """One exchange on a new socket."""
    tries = 2 if target.protocol == "UDP" and timeout_s > SILENCE_S else 1
    with made(target, timeout_s, source_port) as sock:
        for _ in range(tries):
            try:
                return exchange(sock, target)
            except TimeoutError:
                continue
            except OSError as error:
                return Told(failure(error))
    return Told("silence")


def failure(error: OSError) -> str:
    known = {errno.ECONNREFUSED: "refused"}
    return known.get(error.errno or 0) or errno.errorcode.get(error.errno or 0, str(error))


def made(target: Target, timeout_s: float = TIMEOUT_S, source_port: int = 0) -> socket.socket:
    """A socket that fits the target, not yet connected."""
    family = socket.AF_INET6 if ":" in target.address else socket.AF_INET
    kind = socket.SOCK_STREAM if target.protocol == "TCP" else socket.SOCK_DGRAM
    sock = socket.socket(family, kind)
    sock.settimeout(timeout_s)
    if source_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # An RST on close leaves the port free for the next connection to the same address.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.bind(("::" if ":" in target.address else "0.0.0.0", source_port))
    return sock


def exchange(sock: socket.socket, target: Target, request: bytes = b"peer\n") -> Told:
    """Ask once on a socket of the target; connects it first if it is to be connected."""
    dialled = (target.address, target.port)
    if not target.connected:
        sock.sendto(request, dialled)
        answer, sender = sock.recvfrom(65536)
        if sender[:2] != dialled:
            return Told(f"answered by {sender[0]} {sender[1]}")
        return _told(answer)
    sock.connect(dialled)
    return again(sock, request)


def again(sock: socket.socket, request: bytes = b"peer\n") -> Told:
    """One more exchange on a connected socket."""
    sock.sendall(request)
    return _told(sock.recv(65536) or b"closed")


def _told(answer: bytes) -> Told:
    name, *peer = answer.decode().split()
    return Told(name, peer[0] if peer else "")


def told_by(
    targets: list[Target], times: int, timeout_s: float, names: Collection[str] = ()
) -> dict[Target, set[Told]]:
    """What all targets tell in so many exchanges with each, all targets at once.

    A failure ends the exchanges with its target, and so do the answers of all ``names``: the others
    would only take time.
    """

    def often(target: Target) -> set[Told]:
        seen: set[Told] = set()
        for number in range(times):
            told = ask(target, timeout_s)
            seen.add(told)
            if not told.peer or (
                names and number >= AT_LEAST and {each.name for each in seen} >= set(names)
            ):
                break
        return seen

    with ThreadPoolExecutor(len(targets)) as pool:
        return dict(zip(targets, pool.map(often, targets)))
