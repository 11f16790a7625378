# SPDX-License-Identifier: Apache-2.0
"""Aborts connected UDP sockets through sock_diag(7), for kernels without ``bpf_sock_destroy``.

It knows sockets only by their peer: one that was connected to a removed backend without our help is
aborted too, which tells its program the truth. Works in the network namespace of the calling
thread; needs CONFIG_INET_UDP_DIAG and CONFIG_INET_DIAG_DESTROY. Called by ``terminator``.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Collection, Iterator

from kubeproxy_bpf.errors import UnsupportedKernel

Peer = tuple[bytes, int]
"""Address of 16 bytes, v4-mapped, and port."""

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_REQUEST_BODY = struct.Struct("=BBBBI")  # family, protocol, extensions, padding, states
_SOCKET_ID = struct.Struct("!HH16s16s")  # ports and addresses; interface and cookie follow
_SOCKET_ID_BYTES = 48
_MESSAGE_HEAD = 4  # of inet_diag_msg, before the socket's id
_ESTABLISHED = 1 << 1
_MAPPED = bytes(10) + b"\xff\xff"
_BUFFER = 1 << 17


def abort_connected_udp(peers: Collection[Peer]) -> int:
    """Abort the UDP sockets that are connected to one of the peers; return their number."""
    if not peers:
        return 0
    aborted = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as channel:
        for family in (socket.AF_INET, socket.AF_INET6):
            found = [raw for raw, peer in _connected(channel, family) if peer in peers]
            aborted += sum(_destroy(channel, family, raw) for raw in found)
    return aborted


def _connected(channel: socket.socket, family: int) -> Iterator[tuple[bytes, Peer]]:
    """All connected UDP sockets of a family: the kernel's name of each, and its peer."""
    body = _REQUEST_BODY.pack(family, socket.IPPROTO_UDP, 0, 0, _ESTABLISHED)
    _send(channel, _SOCK_DIAG_BY_FAMILY, _REQUEST | _DUMP, body + bytes(_SOCKET_ID_BYTES))
    while True:
        for kind, payload in _messages(channel.recv(_BUFFER)):
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                code = _error(payload)
                needs = f"the kernel lists no UDP sockets ({os.strerror(code)})"
                raise UnsupportedKernel("sock_diag", needs)
            raw = payload[_MESSAGE_HEAD : _MESSAGE_HEAD + _SOCKET_ID_BYTES]
            _, port, _, address = _SOCKET_ID.unpack_from(raw)
            # An IPv6 socket with an IPv4 peer shows it in mapped form: ours already.
            yield raw, (_MAPPED + address[:4] if payload[0] == socket.AF_INET else address, port)


def _destroy(channel: socket.socket, family: int, raw: bytes) -> bool:
    body = _REQUEST_BODY.pack(family, socket.IPPROTO_UDP, 0, 0, _ESTABLISHED)
    _send(channel, _SOCK_DESTROY, _REQUEST | _ACK, body + raw)
    for kind, payload in _messages(channel.recv(_BUFFER)):
        code = _error(payload) if kind == _NLMSG_ERROR else 0
        if code == errno.EOPNOTSUPP:
            raise UnsupportedKernel("SOCK_DESTROY", "the kernel needs CONFIG_INET_DIAG_DESTROY")
        return code == 0  # else it was closed meanwhile
    return False


def _send(channel: socket.socket, kind: int, flags: int, body: bytes) -> None:
    channel.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)


def _messages(raw: bytes) -> Iterator[tuple[int, bytes]]:
    while len(raw) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(raw)
        yield kind, raw[_HEADER.size : length]
        raw = raw[(length + 3) & ~3 :]


def _error(payload: bytes) -> int:
    return -int(struct.unpack_from("=i", payload)[0])
