# SPDX-License-Identifier: Apache-2.0
"""Lists and deletes UDP entries of the kernel's connection tracking (ctnetlink).

Speaks to the kernel by itself: a general library needs 0.12 ms to decode an entry, six times what
is needed here, and the table of a busy node holds 100,000. Only two addresses and two ports of each
are looked at; an entry is named to the kernel by the very bytes that it was listed with. The kernel
filters by protocol and port (Linux 5.8; older ones list all, and it is done here). Which entries to
delete is decided in ``stale``. Called by ``conntrack``.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Iterator, NamedTuple, Self, Sequence

from kubeproxy_bpf.host import nfnetlink
from kubeproxy_bpf.host.nfnetlink import ACK, ATTRIBUTE, GENERIC, HEADER, NESTED, REQUEST
from kubeproxy_bpf.model.types import Family

Endpoint = tuple[bytes, int]
"""Address of 16 bytes, v4-mapped, and port."""

_GET, _DELETE, _GET_STATS = 0x101, 0x102, 0x105
_PORT = struct.Struct("!H")

# Attributes, by the level that they are of.
_ORIG, _REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_IP, _PROTO, _TUPLE_ZONE = 1, 2, 3
_PROTO_NUM, _SRC_PORT, _DST_PORT = 1, 2, 3
_FILTER_ORIG, _FILTER_REPLY = 1, 2
_BY_NUM, _BY_DST_PORT = 1 << 3, 1 << 5

_WIRE_FAMILY = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_SRC_DST: dict[int, tuple[int, int]] = {socket.AF_INET: (1, 2), socket.AF_INET6: (3, 4)}
_MAPPED = bytes(10) + b"\xff\xff"


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
        self._list = nfnetlink.open_channel()
        self._delete = nfnetlink.open_channel()

    def udp_entries(self, family: Family, port: int | None = None) -> Iterator[list[Entry]]:
        """All UDP entries, or those to one port, in pieces of some 100 as the kernel gives them.

        Raises:
            OSError: the kernel refuses, or gave up.
        """
        wire = _WIRE_FAMILY[family]
        body = GENERIC.pack(wire, 0, 0) + _filter(port)
        for raw, bodies in nfnetlink.dump(self._list, _GET, body):
            entries = [_entry(raw, start, end, wire) for start, end in bodies]
            yield [e for e in entries if e is not None and port in (None, e.destination[1])]

    def delete(self, names: Sequence[bytes]) -> int:
        """Delete these entries, at most some 100 at once; return how many there still were.

        Raises:
            OSError: the kernel refuses.
        """
        if not names:
            return 0
        # Only the last one is answered for, and those that fail: the answers fit the queue.
        flags = [REQUEST] * (len(names) - 1) + [REQUEST | ACK]
        self._delete.send(
            b"".join(
                nfnetlink.message(_DELETE, flag, name, number)
                for number, (flag, name) in enumerate(zip(flags, names))
            )
        )
        gone = 0
        while True:
            raw = nfnetlink.receive(self._delete)
            for _, start, _ in nfnetlink.messages(raw):
                refused = nfnetlink.code(raw, start)
                if refused == errno.ENOENT:
                    gone += 1
                elif refused:
                    raise nfnetlink.refusal(raw, start)
                if HEADER.unpack_from(raw, start - HEADER.size)[3] == len(names) - 1:
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
        with nfnetlink.open_channel() as channel:
            body = GENERIC.pack(socket.AF_UNSPEC, 0, 0)
            channel.send(nfnetlink.message(_GET_STATS, REQUEST | ACK, body))
            nfnetlink.receive(channel)
    except OSError:
        pass  # whoever needs it will see that it is not there


def _filter(port: int | None) -> bytes:
    """The part of the table that is asked for: UDP, to this port."""
    attribute = nfnetlink.attribute
    proto = attribute(_PROTO_NUM, bytes([socket.IPPROTO_UDP]))
    flags = _BY_NUM
    if port is not None:
        proto += attribute(_DST_PORT, _PORT.pack(port))
        flags |= _BY_DST_PORT
    what = attribute(_FILTER_ORIG, struct.pack("=I", flags))
    what += attribute(_FILTER_REPLY, struct.pack("=I", 0))
    asked = attribute(_PROTO | NESTED, proto)
    return attribute(_ORIG | NESTED, asked) + attribute(_FILTER | NESTED, what)


def _entry(raw: bytes, start: int, end: int, wire: int) -> Entry | None:
    """The entry that a message tells; None if it is not UDP, which older kernels list too, or in
    a zone: that belongs to somebody who tracks for himself, such as Open vSwitch."""
    spans = nfnetlink.spans(raw, start + GENERIC.size, end)
    if _ZONE in spans:
        return None
    source, destination = _SRC_DST[wire]
    asked = _end(raw, spans[_ORIG], destination, _DST_PORT)
    answering = _end(raw, spans[_REPLY], source, _SRC_PORT)
    if asked is None or answering is None:
        return None
    parts = [GENERIC.pack(wire, 0, 0)]
    # By its answers: a younger entry of the same client, to an endpoint that serves, has others.
    # The id does not tell them apart where the kernel uses the memory of the older one again.
    for kind in (_REPLY, _ID):
        first, last = spans[kind]
        parts.append(raw[first - ATTRIBUTE.size : (last + 3) & ~3])
    return Entry(asked, answering, b"".join(parts))


def _end(raw: bytes, span: tuple[int, int], address: int, port: int) -> Endpoint | None:
    """One end of a tuple, if it is one of UDP in no zone."""
    parts = nfnetlink.spans(raw, *span)
    if _TUPLE_ZONE in parts:
        return None
    proto = nfnetlink.spans(raw, *parts[_PROTO])
    if raw[proto[_PROTO_NUM][0]] != socket.IPPROTO_UDP:
        return None
    first, last = nfnetlink.spans(raw, *parts[_IP])[address]
    value = raw[first:last]
    (number,) = _PORT.unpack_from(raw, proto[port][0])
    return (value if len(value) == 16 else _MAPPED + value), number
