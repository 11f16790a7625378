# SPDX-License-Identifier: Apache-2.0
"""Thousands of clients: packets of many flows by one test-run, through the programs as they are.

Client number n is ``client(n)`` of the benchmark's frames, whose generator writes the packets and
calls the program; what it returns for each of them is not seen, so the tests look at counters, at
the flow table, and at single packets (``Hooks``).
"""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Callable, NamedTuple, Self

from kubeproxy_bpf.dataplane.loader import Datapath
from tests.bench import frames as bench
from tests.bpf.packet import frames
from tests.bpf.packet.frames import Ends
from tests.bpf.packet.hooks import skb
from tests.bpf.packet.node import MAC, UPLINK, Node

FIN, SYN, RST, ACK = 1, 2, 4, 16
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP

_CLIENT_MAC = bytes.fromhex(frames.CLIENT_MAC.replace(":", ""))


class Place(NamedTuple):
    """Where the crowd goes: what clients dial, and who serves it."""

    vip: tuple[str, int]
    backend: tuple[str, int]
    protocol: int = TCP


class Crowd:
    """Drives the packets of numbered clients, all of the same kind in one call."""

    def __init__(self, node: Node, datapath: Datapath, directory: Path) -> None:
        self._node = node
        self._programs = datapath.programs
        self._generator = bench.Generator(directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._generator.__exit__()

    def ask(
        self, place: Place, count: int, flags: int = 0, first: int = 0, rounds: int = 1
    ) -> None:
        """One packet of each client, as it comes by the uplink; the same again in each round."""
        ends = bench.Ends(_CLIENT_MAC, _mac(UPLINK), *place.vip)
        frame = bench.template(ends, place.protocol, flags)
        self._generator.plan(frame, count, first)
        self._run("kpb_tc_ingress", frame, count * rounds)

    def answer(self, place: Place, count: int, flags: int = 0, first: int = 0) -> None:
        """One packet of the backend to each client, as it leaves by the uplink.

        For backends that see the clients themselves.
        """
        ends = bench.Ends(_mac(UPLINK), _CLIENT_MAC, "0.0.0.0", 0)
        frame = bench.build(ends, *place.backend, place.protocol, flags, template=True)
        self._generator.plan(frame, count, first, reply=True)
        self._run("kpb_tc_egress", frame, count)

    def establish(self, place: Place, count: int, first: int = 0) -> None:
        """Open flows in both directions; TCP with a whole handshake."""
        tcp = place.protocol == TCP
        self.ask(place, count, SYN if tcp else 0, first)
        self.answer(place, count, SYN | ACK if tcp else 0, first)
        self.ask(place, count, ACK if tcp else 0, first)

    def _run(self, program: str, frame: bytes, count: int) -> None:
        driver = self._generator.put_under_test(self._programs[program])
        context = skb(self._node.ifindex[UPLINK])
        with self._node.inside():
            result = driver.test_run(frame, count, context)
        assert result.retval != bench.NOT_CALLED


def at_once(*tasks: Callable[[], None]) -> None:
    """Run each on a processor of its own, as far as there are so many."""
    processors = sorted(os.sched_getaffinity(0))
    start = Barrier(len(tasks))

    def run(number: int) -> None:
        os.sched_setaffinity(0, {processors[number % len(processors)]})
        start.wait()
        tasks[number]()

    with ThreadPoolExecutor(len(tasks)) as threads:
        list(threads.map(run, range(len(tasks))))


def ends(place: Place, number: int) -> Ends:
    """From which client to whom."""
    return Ends(*bench.client(number), *place.vip)


def _mac(device: str) -> bytes:
    return bytes.fromhex(MAC[device].replace(":", ""))
