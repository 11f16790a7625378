# SPDX-License-Identifier: Apache-2.0
"""Offered load as a program: short and held connections to one frontend, counted one by one.

Run inside a place of the sandbox; prints ``ready`` when all held connections stand, and one JSON
object on SIGTERM. The scenario that uses it decides what the numbers must be: a run whose load was
not there proves nothing.

    offered_load.py ADDRESS PORT --rate 700 --held 60
"""

from __future__ import annotations

import argparse
import collections
import json
import select
import signal
import socket
import sys
import time

TIMEOUT_S = 10.0


class Load:
    """Offers connections at a rate, one after the other, and keeps the held ones busy."""

    def __init__(self, address: str, port: int, rate: float, held: int) -> None:
        self.target = (address, port)
        self.interval_s = 1.0 / rate
        self.wanted_held = held
        self.held: list[socket.socket] = []
        self.held_lost: list[str] = []
        self.attempted = self.answered = self.held_exchanges = 0
        self.answers: collections.Counter[str] = collections.Counter()
        self.failures: collections.Counter[str] = collections.Counter()
        self.longest_gap_s = 0.0
        self.stopped = False

    def connect(self) -> socket.socket:
        sock = socket.create_connection(self.target, TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    @staticmethod
    def ask(sock: socket.socket) -> str:
        sock.sendall(b"name\n")
        answer = b""
        while not answer.endswith(b"\n"):
            part = sock.recv(256)
            if not part:
                raise ConnectionError("closed by the backend")
            answer += part
        return answer.decode().strip()

    def open_held(self) -> None:
        for _ in range(self.wanted_held):
            sock = self.connect()
            self.ask(sock)
            self.held.append(sock)

    def short(self) -> None:
        self.attempted += 1
        try:
            with self.connect() as sock:
                # An RST on close keeps the source ports free for a load of this rate.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                self.answers[self.ask(sock)] += 1
            self.answered += 1
        except OSError as error:
            self.failures[type(error).__name__ + ": " + str(error)] += 1

    def exchange_held(self, index: int) -> None:
        if not self.held:
            return
        sock = self.held[index % len(self.held)]
        try:
            self.ask(sock)
            self.held_exchanges += 1
        except OSError as error:
            self.held_lost.append(f"{type(error).__name__}: {error}")
            self.held.remove(sock)

    def run(self) -> dict[str, object]:
        self.open_held()
        print("ready", flush=True)
        begin = last = due = time.monotonic()
        while not self.stopped:
            self.short()
            if self.attempted % 4 == 0:
                self.exchange_held(self.attempted // 4)
            now = time.monotonic()
            self.longest_gap_s = max(self.longest_gap_s, now - last)
            last = now
            due = max(due + self.interval_s, now - 1.0)
            if due > now:
                select.select([], [], [], due - now)
        return self.result(time.monotonic() - begin)

    def result(self, seconds: float) -> dict[str, object]:
        return {
            "seconds": seconds,
            "rate": self.attempted / seconds,
            "attempted": self.attempted,
            "answered": self.answered,
            "answers": dict(self.answers),
            "failures": dict(self.failures),
            "held": len(self.held),
            "held_lost": self.held_lost,
            "held_exchanges": self.held_exchanges,
            "longest_gap_s": self.longest_gap_s,
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--rate", type=float, default=700.0)
    parser.add_argument("--held", type=int, default=60)
    options = parser.parse_args()
    load = Load(options.address, options.port, options.rate, options.held)

    def stop(*_: object) -> None:
        load.stopped = True

    signal.signal(signal.SIGTERM, stop)
    json.dump(load.run(), sys.stdout)
    print(flush=True)


if __name__ == "__main__":
    main()
