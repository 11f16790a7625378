# SPDX-License-Identifier: Apache-2.0
"""Lists and deletes UDP entries of the kernel's connection tracking (ctnetlink).

Speaks to the kernel by itself: a general library needs 0.12 ms to decode an entry, six times what
is needed here, and the table of a busy node holds 100,000. Only two addresses and two ports of each
are looked at; an entry is named to the kernel by the very bytes that it was listed with. The kernel
filters by protocol and port (Linux 5.8; older ones list all, and it is done here). Which entries to
delete is decided in ``stale``. Works in the network namespace of the thread that opens it; needs
CAP_NET_ADMIN. Called by ``conntrack``.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Iterator, NamedTuple, Self, Sequence

from kubeproxy_bpf.model.types import Family

Endpoint = tuple[bytes, int]
"""Address of 16 bytes, v4-mapped, and port."""

_NETLINK_NETFILTER = 12
_NEW, _GET, _DELETE, _GET_STATS = 0x100, 0x101, 0x102, 0x105
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_GENERIC = struct.Struct("!BBH")  # family, version, resource
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_PORT = struct.Struct("!H")
_BODY = _HEADER.size + _GENERIC.size

# Attributes, by the level that they are of.
_ORIG, _REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_IP, _PROTO, _TUPLE_ZONE = 1, 2, 3
_PROTO_NUM, _SRC_PORT, _DST_PORT = 1, 2, 3
_FILTER_ORIG, _FILTER_REPLY = 1, 2
_NESTED = 0x8000
_TYPE = 0x3FFF
_BY_NUM, _BY_DST_PORT = 1 << 3, 1 << 5

_WIRE_FAMILY = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_SRC_DST: dict[int, tuple[int, int]] = {socket.AF_INET: (1, 2), socket.AF_INET6: (3, 4)}
_MAPPED = bytes(10) + b"\xff\xff"
_BUFFER = 1 << 16
_TIMEOUT_S = 10.0

_Spans = dict[int, tuple[int, int]]
"""Where in a message the content of each attribute starts and ends, by type."""


class Entry(NamedTuple):
    """A UDP flow that the kernel tracks."""

    destination: Endpoint
    """Whom its client asked."""
    answered_by: Endpoint
    """Who answers: the same, unless it is translated."""
    name: bytes
    """What the kernel calls it."""


class Conntrack:
    """An open channel to the table of one network namespace."""

    def __init__(self) -> None:
        self._list = _channel()
        self._delete = _channel()

    def udp_entries(self, family: Family, port: int | None = None) -> Iterator[list[Entry]]:
        """All UDP entries, or those to one port, in pieces of some 100 as the kernel gives them.

        Raises:
            OSError: the kernel refuses, or gave up.
        """
        wire = _WIRE_FAMILY[family]
        body = _GENERIC.pack(wire, 0, 0) + _filter(port)
        self._list.send(_message(_GET, _REQUEST | _DUMP, body))
        while True:
            raw = self._list.recv(_BUFFER)
            entries: list[Entry] = []
            for kind, start, end in _messages(raw):
                if kind == _DONE:
                    yield entries
                    return
                _raise_if_error(kind, raw, start)
                entry = _entry(raw, start, end, wire)
                if entry is not None and port in (None, entry.destination[1]):
                    entries.append(entry)
            yield entries

    def delete(self, names: Sequence[bytes]) -> int:
        """Delete these entries, at most some 100 at once; return how many there still were.

        Raises:
            OSError: the kernel refuses.
        """
        if not names:
            return 0
        # Only the last one is answered for, and those that fail: the answers fit the queue.
        flags = [_REQUEST] * (len(names) - 1) + [_REQUEST | _ACK]
        self._delete.send(
            b"".join(
                _message(_DELETE, flag, name, number)
                for number, (flag, name) in enumerate(zip(flags, names))
            )
        )
        gone = 0
        while True:
            raw = self._delete.recv(_BUFFER)
            for kind, start, _ in _messages(raw):
                code = _code(raw, start) if kind == _ERROR else 0
                if code == errno.ENOENT:
                    gone += 1
                elif code:
                    raise OSError(code, os.strerror(code))
                if _HEADER.unpack_from(raw, start - _HEADER.size)[3] == len(names) - 1:
                    return len(names) - gone

    def close(self) -> None:
        self._list.close()
        self._delete.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


def ask_for_module() -> None:
    """Ask the kernel a thing that it loads its connection tracking for, if it is a module.

    It does so by itself, with the modules of the host, whatever this container sees of them.
    """
    try:
        with _channel() as channel:
            body = _GENERIC.pack(socket.AF_UNSPEC, 0, 0)
            channel.send(_message(_GET_STATS, _REQUEST | _ACK, body))
            channel.recv(_BUFFER)
    except OSError:
        pass  # whoever needs it will see that it is not there


def _channel() -> socket.socket:
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    channel.settimeout(_TIMEOUT_S)
    return channel


def _message(kind: int, flags: int, body: bytes, sequence: int = 0) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def _attribute(kind: int, content: bytes) -> bytes:
    padding = bytes(-len(content) % 4)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(content), kind) + content + padding


def _filter(port: int | None) -> bytes:
    """The part of the table that is asked for: UDP, to this port."""
    tuple_proto = _attribute(_PROTO_NUM, bytes([socket.IPPROTO_UDP]))
    flags = _BY_NUM
    if port is not None:
        tuple_proto += _attribute(_DST_PORT, _PORT.pack(port))
        flags |= _BY_DST_PORT
    what = _attribute(_FILTER_ORIG, struct.pack("=I", flags))
    what += _attribute(_FILTER_REPLY, struct.pack("=I", 0))
    asked = _attribute(_PROTO | _NESTED, tuple_proto)
    return _attribute(_ORIG | _NESTED, asked) + _attribute(_FILTER | _NESTED, what)


def _messages(raw: bytes) -> Iterator[tuple[int, int, int]]:
    """Type, start and end of the body of each message."""
    at = 0
    while at + _HEADER.size <= len(raw):
        length, kind, _, _, _ = _HEADER.unpack_from(raw, at)
        yield kind, at + _HEADER.size, at + length
        at += (length + 3) & ~3


def _spans(raw: bytes, start: int, end: int) -> _Spans:
    spans: _Spans = {}
    while start < end:
        length, kind = _ATTRIBUTE.unpack_from(raw, start)
        spans[kind & _TYPE] = start + _ATTRIBUTE.size, start + length
        start += (length + 3) & ~3
    return spans


def _entry(raw: bytes, start: int, end: int, wire: int) -> Entry | None:
    """The entry that a message tells; None if it is not UDP, which older kernels list too, or in
    a zone: that belongs to somebody who tracks for himself, such as Open vSwitch."""
    spans = _spans(raw, start + _GENERIC.size, end)
    if _ZONE in spans:
        return None
    source, destination = _SRC_DST[wire]
    asked = _end(raw, spans[_ORIG], destination, _DST_PORT)
    answering = _end(raw, spans[_REPLY], source, _SRC_PORT)
    if asked is None or answering is None:
        return None
    parts = [_GENERIC.pack(wire, 0, 0)]
    # By its answers: a younger entry of the same client, to an endpoint that serves, has others.
    # The id does not tell them apart where the kernel uses the memory of the older one again.
    for kind in (_REPLY, _ID):
        first, last = spans[kind]
        parts.append(raw[first - _ATTRIBUTE.size : (last + 3) & ~3])
    return Entry(asked, answering, b"".join(parts))


def _end(raw: bytes, span: tuple[int, int], address: int, port: int) -> Endpoint | None:
    """One end of a tuple, if it is one of UDP in no zone."""
    parts = _spans(raw, *span)
    if _TUPLE_ZONE in parts:
        return None
    proto = _spans(raw, *parts[_PROTO])
    if raw[proto[_PROTO_NUM][0]] != socket.IPPROTO_UDP:
        return None
    first, last = _spans(raw, *parts[_IP])[address]
    value = raw[first:last]
    (number,) = _PORT.unpack_from(raw, proto[port][0])
    return (value if len(value) == 16 else _MAPPED + value), number


def _raise_if_error(kind: int, raw: bytes, start: int) -> None:
    if kind == _ERROR:
        code = _code(raw, start)
        raise OSError(code, os.strerror(code))


def _code(raw: bytes, start: int) -> int:
    return -int(struct.unpack_from("=i", raw, start)[0])
