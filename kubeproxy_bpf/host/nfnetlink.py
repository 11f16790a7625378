# SPDX-License-Identifier: Apache-2.0
"""The framing that netfilter's parts of netlink share: messages, attributes, dumps, errors.

What the attributes mean is the business of ``ctnetlink`` and ``basechains``, which keep to bytes
and offsets, since tables of the kernel may be large. Works in the network namespace of the thread
that opens the channel; needs CAP_NET_ADMIN.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Iterator

REQUEST, ACK, DUMP = 1, 4, 0x300
ERROR, DONE = 2, 3
HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
GENERIC = struct.Struct("!BBH")  # family, version, resource
ATTRIBUTE = struct.Struct("=HH")  # length, type
NESTED = 0x8000

Spans = dict[int, tuple[int, int]]
"""Where in a message the content of each attribute starts and ends, by type."""

_NETLINK_NETFILTER = 12
_TYPE = 0x3FFF
_BUFFER = 1 << 16
_TIMEOUT_S = 10.0


def open_channel() -> socket.socket:
    """A socket to the kernel's netfilter; the kernel may not keep it waiting for ever."""
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    channel.settimeout(_TIMEOUT_S)
    return channel


def message(kind: int, flags: int, body: bytes, sequence: int = 0) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def attribute(kind: int, content: bytes) -> bytes:
    padding = bytes(-len(content) % 4)
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(content), kind) + content + padding


def receive(channel: socket.socket) -> bytes:
    """The next piece, of one message or many."""
    return channel.recv(_BUFFER)


def messages(raw: bytes) -> Iterator[tuple[int, int, int]]:
    """Type, start and end of the body of each message of a piece."""
    at = 0
    while at + HEADER.size <= len(raw):
        length, kind, _, _, _ = HEADER.unpack_from(raw, at)
        yield kind, at + HEADER.size, at + length
        at += (length + 3) & ~3


def dump(
    channel: socket.socket, kind: int, body: bytes
) -> Iterator[tuple[bytes, list[tuple[int, int]]]]:
    """All that the kernel lists: pieces, and where in each the bodies start and end.

    Raises:
        OSError: the kernel refuses, or gave up.
    """
    channel.send(message(kind, REQUEST | DUMP, body))
    while True:
        raw = receive(channel)
        bodies: list[tuple[int, int]] = []
        for found, start, end in messages(raw):
            if found == DONE:
                yield raw, bodies
                return
            if found == ERROR:
                raise refusal(raw, start)
            bodies.append((start, end))
        yield raw, bodies


def spans(raw: bytes, start: int, end: int) -> Spans:
    """The attributes between two places of a message."""
    found: Spans = {}
    while start < end:
        length, kind = ATTRIBUTE.unpack_from(raw, start)
        found[kind & _TYPE] = start + ATTRIBUTE.size, start + length
        start += (length + 3) & ~3
    return found


def code(raw: bytes, start: int) -> int:
    """The errno of an answer; 0: it is done."""
    return -int(struct.unpack_from("=i", raw, start)[0])


def refusal(raw: bytes, start: int) -> OSError:
    number = code(raw, start)
    return OSError(number, os.strerror(number))
