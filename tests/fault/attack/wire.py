# SPDX-License-Identifier: Apache-2.0
"""The attacker: on the wire of node1, free to send any frame and to see all that node1 sends.

Frames go in at the router's end of node1's device, so no host on the way says no to them.
"""

from __future__ import annotations

import json
import select
import socket
import time
from functools import partial
from typing import Iterable, NamedTuple, Sequence

from kubeproxy_bpf.sandbox.cluster import Sandbox
from kubeproxy_bpf.sandbox.layout import Addresses
from tests.bpf.fuzz import craft
from tests.bpf.fuzz.reading import Reading, read

DEVICE = "to-node1"
_ALL_KINDS = 3  # ETH_P_ALL
_OUTGOING = 4
_LONGEST = 65536
_BUFFER = 1 << 24
_BURST_S = 0.01
_PATIENCE_S = 30.0


class Volley(NamedTuple):
    """What a flood came to."""

    sent: int
    sent_bytes: int
    answers: int
    answer_bytes: int


class Attacker:
    """Sends to node1, as whoever it likes."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.node: Addresses = sandbox.layout.addresses("node1")
        (link,) = json.loads(sandbox.exec("node1", ["ip", "-j", "link", "show", "eth0"]).stdout)
        self._mac = str(link["address"])

    def frame(self, content: bytes) -> bytes:
        return craft.frame(content, self._mac)

    def exchange(self, packets: Iterable[bytes], wait_s: float = 0.5) -> list[Reading]:
        """Send these IP packets, and return all that comes back to their sources."""
        frames = [self.frame(content) for content in packets]
        seen = self._sandbox.run_in("net", partial(_exchange, frames, wait_s))
        return [reading for data in seen if (reading := read(data, craft.ETHERNET_BYTES))]

    def flood(self, packets: Sequence[bytes], per_s: int, seconds: float) -> Volley:
        """Send these IP packets in turn at a bounded rate, and count what comes back.

        For so long, and, on a slow machine, until each was sent once.
        """
        frames = [self.frame(content) for content in packets]
        return self._sandbox.run_in("net", partial(_flood, frames, per_s, seconds))


def _wire() -> socket.socket:
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_KINDS))
    wire.bind((DEVICE, _ALL_KINDS))
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    wire.setblocking(False)
    return wire


def _sources(frames: Iterable[bytes]) -> frozenset[bytes]:
    return frozenset(_address(frame, source=True) for frame in frames)


def _address(frame: bytes, source: bool) -> bytes:
    """The source or the destination of the packet in a frame."""
    size, first = (4, 26) if frame[12:14] == b"\x08\x00" else (16, 22)
    begin = first if source else first + size
    return frame[begin : begin + size]


def _received(wire: socket.socket, mine: frozenset[bytes]) -> list[bytes]:
    """What has come by now for one of these addresses."""
    found = []
    while True:
        try:
            data, address = wire.recvfrom(_LONGEST)
        except BlockingIOError:
            return found
        if address[2] != _OUTGOING and _address(data, source=False) in mine:
            found.append(data)


def _exchange(frames: Sequence[bytes], wait_s: float) -> list[bytes]:
    found, mine = [], _sources(frames)
    with _wire() as wire:
        for frame in frames:
            wire.send(frame)
        end = time.monotonic() + wait_s
        while (left := end - time.monotonic()) > 0:
            select.select([wire], [], [], left)
            found += _received(wire, mine)
    return found


def _flood(frames: Sequence[bytes], per_s: int, seconds: float) -> Volley:
    sent = sent_bytes = answers = answer_bytes = 0
    mine = _sources(frames)
    with _wire() as wire:
        begun = time.monotonic()
        while (now := time.monotonic() - begun) < seconds or (
            sent < len(frames) and now < _PATIENCE_S
        ):
            while sent < now * per_s:
                frame = frames[sent % len(frames)]
                try:
                    sent_bytes += wire.send(frame)
                except BlockingIOError:
                    break
                sent += 1
            got = _received(wire, mine)
            answers += len(got)
            answer_bytes += sum(map(len, got))
            time.sleep(_BURST_S)
        time.sleep(0.2)
        got = _received(wire, mine)
    return Volley(sent, sent_bytes, answers + len(got), answer_bytes + sum(map(len, got)))
