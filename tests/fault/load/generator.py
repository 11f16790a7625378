# SPDX-License-Identifier: Apache-2.0
"""Offered load as a program: one process, one epoll, many conversations with one frontend.

    generator.py ADDRESS TCP_PORT UDP_PORT --tcp 250 --udp 100 --held-tcp 20 --held-udp 10

Short conversations (connect, ask for the backend's name, close; or one datagram there and back from
a new socket) begin at a given rate, whatever becomes of the earlier ones. Held ones are opened
first and asked one after the other for as long as the load lasts. Prints ``ready`` when all held
ones were answered once, and one JSON object after SIGTERM: counts, and times (``CLOCK_MONOTONIC``)
of all that was unusual. It judges nothing: ``report.py`` does. Only the standard library is used,
so that it runs with ``python -I -S`` in any place of a sandbox.
"""

from __future__ import annotations

import argparse
import collections
import errno
import json
import os
import resource
import select
import signal
import socket
import sys
import time

STREAM_TIMEOUT_S = 10.0
DATAGRAM_TIMEOUT_S = 1.0
DATAGRAM_TRIES = 4
HELD_INTERVAL_S = 0.01
KEPT = 500
"""Of failures only so many are told one by one; all are counted."""
SLOW_S = 0.1
QUESTION = b"name\n"
_RESET_ON_CLOSE = b"\1\0\0\0\0\0\0\0"
_KINDS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ETIMEDOUT: "timed out",
}


class Conversation:
    """One socket and what is known of it."""

    __slots__ = ("sock", "datagram", "held", "begun", "tries", "turn", "waiting", "name", "got")

    def __init__(self, sock: socket.socket, datagram: bool, held: bool, now: float) -> None:
        self.sock = sock
        self.datagram = datagram
        self.held = held
        self.begun = now
        self.tries = 0
        self.turn = 0
        self.waiting = True
        self.name = ""
        self.got = b""

    @property
    def protocol(self) -> str:
        return "udp" if self.datagram else "tcp"


class Told:
    """What is reported in the end."""

    def __init__(self) -> None:
        self.tried: collections.Counter[str] = collections.Counter()
        self.answered: collections.Counter[str] = collections.Counter()
        self.failed: collections.Counter[str] = collections.Counter()
        self.failures: list[list[object]] = []
        self.answers: dict[str, collections.Counter[int]] = {}
        self.held_answers: dict[str, collections.Counter[int]] = {}
        self.slow: list[list[object]] = []
        self.held_lost: list[list[object]] = []
        self.held_moved: list[list[object]] = []
        self.held_exchanges = 0
        self.longest_gap_s = 0.0
        self.last = 0.0

    def answer(self, talk: Conversation, name: str, now: float) -> None:
        """A short conversation came to its good end."""
        self.answered[talk.protocol] += 1
        _count(self.answers, name, talk.begun)
        if now - talk.begun > SLOW_S:
            self.slow.append([talk.begun, now, name])
        self.alive(now)

    def alive(self, now: float) -> None:
        self.longest_gap_s = max(self.longest_gap_s, now - self.last)
        self.last = now

    def failure(self, talk: Conversation, kind: str, text: str, now: float) -> None:
        self.failed[kind] += 1
        if len(self.failures) < KEPT:
            self.failures.append([talk.begun, now, talk.protocol, kind, text])


def _count(answers: dict[str, collections.Counter[int]], name: str, when: float) -> None:
    """Answers are counted by tenths of a second."""
    answers.setdefault(name, collections.Counter())[int(when * 10)] += 1


class Pace:
    """When the next conversation of a kind is due; at most a second of delay is made up for."""

    def __init__(self, rate: float) -> None:
        self.interval_s = 1.0 / rate if rate else 0.0
        self.next = time.monotonic() if rate else float("inf")

    def due(self, now: float) -> bool:
        if self.next > now:
            return False
        self.next = max(self.next + self.interval_s, now - 1.0)
        return True


class Generator:
    """Drives all conversations."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.address = options.address
        self.family = socket.AF_INET6 if ":" in options.address else socket.AF_INET
        self.epoll = select.epoll()
        self.open: dict[int, Conversation] = {}
        self.held: list[Conversation] = []
        self.opened = 0
        self.deadlines: tuple[collections.deque, collections.deque] = (
            collections.deque(),
            collections.deque(),
        )
        self.told = Told()
        self.stopped = False

    # ---- one conversation ----

    def begin(self, datagram: bool, held: bool) -> Conversation:
        now = time.monotonic()
        kind = socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM
        sock = socket.socket(self.family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        talk = Conversation(sock, datagram, held, now)
        self.open[sock.fileno()] = talk
        if not held:
            self.told.tried[talk.protocol] += 1
        try:
            self._connect(talk)
        except OSError as error:
            self.epoll.register(sock.fileno(), 0)
            self.fail(talk, _KINDS.get(error.errno or 0, "other"), os.strerror(error.errno or 0))
        return talk

    def _connect(self, talk: Conversation) -> None:
        sock = talk.sock
        if talk.datagram:
            if talk.held:
                sock.connect((self.address, self.options.udp_port))
            self.ask(talk)
            self.epoll.register(sock.fileno(), select.EPOLLIN)
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not talk.held:
            # An RST on close keeps the source ports free for a load of this rate.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        result = sock.connect_ex((self.address, self.options.tcp_port))
        if result not in (0, errno.EINPROGRESS):
            raise OSError(result, os.strerror(result))
        self.expect(talk)
        self.epoll.register(sock.fileno(), select.EPOLLOUT)

    def ask(self, talk: Conversation) -> None:
        if talk.datagram and not talk.held:
            talk.sock.sendto(QUESTION, (self.address, self.options.udp_port))
        else:
            talk.sock.send(QUESTION)
        self.expect(talk)

    def expect(self, talk: Conversation) -> None:
        """Something must come before a deadline."""
        talk.turn += 1
        talk.waiting = True
        limit = DATAGRAM_TIMEOUT_S if talk.datagram else STREAM_TIMEOUT_S
        self.deadlines[talk.datagram].append((time.monotonic() + limit, talk, talk.turn))

    def ready(self, talk: Conversation, events: int) -> None:
        """The socket can be written to for the first time, or read from."""
        try:
            if events & select.EPOLLOUT:
                problem = talk.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if problem:
                    raise OSError(problem, os.strerror(problem))
                self.epoll.modify(talk.sock.fileno(), select.EPOLLIN)
                self.ask(talk)
            else:
                self.read(talk)
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(talk, _KINDS.get(error.errno or 0, "other"), str(error))

    def read(self, talk: Conversation) -> None:
        part = talk.sock.recv(256)
        if not part and not talk.datagram:
            raise ConnectionResetError(errno.ECONNRESET, "closed by the other side")
        talk.got += part
        if not talk.datagram and not talk.got.endswith(b"\n"):
            return
        name, talk.got = talk.got.decode(errors="replace").strip(), b""
        now = time.monotonic()
        if not talk.waiting:  # a second answer to a datagram that was sent twice
            return
        talk.waiting = False
        talk.tries = 0
        if talk.held:
            self.answered_held(talk, name, now)
        else:
            self.told.answer(talk, name, now)
            self.close(talk)

    def answered_held(self, talk: Conversation, name: str, now: float) -> None:
        if talk.name and name != talk.name:
            self.told.held_moved.append([now, talk.protocol, talk.name, name])
        talk.name = name
        self.told.held_exchanges += 1
        if talk.datagram:
            _count(self.told.held_answers, name, now)

    def fail(self, talk: Conversation, kind: str, text: str) -> None:
        now = time.monotonic()
        if talk.held:
            self.told.held_lost.append([now, talk.protocol, talk.name, f"{kind}: {text}"])
            position = self.held.index(talk) if talk in self.held else -1
            if talk.datagram and position >= 0 and not self.stopped:
                # A client of datagrams makes a new socket.
                self.held[position] = self.begin(True, True)
            elif position >= 0:
                del self.held[position]
        else:
            self.told.failure(talk, kind, text, now)
        self.close(talk)

    def close(self, talk: Conversation) -> None:
        number = talk.sock.fileno()
        if self.open.get(number) is talk:
            del self.open[number]
            talk.waiting = False
            self.epoll.unregister(number)
            talk.sock.close()

    def overdue(self, now: float) -> None:
        for waiting in self.deadlines:
            while waiting and waiting[0][0] <= now:
                _, talk, turn = waiting.popleft()
                if talk.waiting and talk.turn == turn:
                    self.again(talk)

    def again(self, talk: Conversation) -> None:
        """A datagram may get lost: it is sent again, as clients do."""
        talk.tries += 1
        if not talk.datagram or talk.tries >= DATAGRAM_TRIES:
            self.fail(talk, "timed out", "no answer")
            return
        try:
            self.ask(talk)
        except OSError as error:
            self.fail(talk, _KINDS.get(error.errno or 0, "other"), str(error))

    # ---- all of them ----

    def turn(self, until: float) -> None:
        now = time.monotonic()
        # Rounded up to a millisecond by the kernel, which makes small batches.
        for number, events in self.epoll.poll(max(0.0, min(until - now, 0.2)), 256):
            talk = self.open.get(number)
            if talk is not None:
                self.ready(talk, events)
        self.overdue(time.monotonic())

    def hold(self) -> None:
        """Open what is held, and wait until each was answered or failed."""
        count = ((False, self.options.held_tcp), (True, self.options.held_udp))
        for datagram, wanted in count:
            for _ in range(wanted):
                self.held.append(self.begin(datagram, True))
                self.turn(0)
        while any(talk.waiting for talk in self.held) and not self.stopped:
            self.turn(time.monotonic() + 0.1)
        self.opened = len(self.held)

    def exchange_held(self, position: int) -> None:
        if not self.held:
            return
        talk = self.held[position % len(self.held)]
        if talk.waiting:
            return
        try:
            self.ask(talk)
        except OSError as error:
            self.fail(talk, _KINDS.get(error.errno or 0, "other"), str(error))

    def run(self) -> dict[str, object]:
        self.hold()
        print("ready", flush=True)
        begun = self.told.last = time.monotonic()
        used = time.process_time()
        self.offer()
        ended = time.monotonic()
        while self.short_open():
            self.turn(time.monotonic() + 0.1)
        return self.result(begun, ended, time.process_time() - used)

    def offer(self) -> None:
        streams, datagrams = Pace(self.options.tcp), Pace(self.options.udp)
        held = Pace(1.0 / HELD_INTERVAL_S if self.opened else 0.0)
        position = 0
        while not self.stopped:
            now = time.monotonic()
            for _ in range(16):
                if streams.due(now):
                    self.begin(False, False)
                if datagrams.due(now):
                    self.begin(True, False)
            if held.due(now):
                self.exchange_held(position)
                position += 1
            self.turn(min(streams.next, datagrams.next, held.next))

    def short_open(self) -> bool:
        return any(not talk.held for talk in self.open.values()) or any(
            talk.waiting for talk in self.held
        )

    def result(self, begun: float, ended: float, used: float) -> dict[str, object]:
        told = self.told
        told.alive(max(ended, told.last))
        return {
            "begun": begun,
            "ended": ended,
            "cpu_s": used,
            "held": self.opened,
            "left": len(self.held),
            **{name: value for name, value in vars(told).items() if name != "last"},
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("tcp_port", type=int)
    parser.add_argument("udp_port", type=int)
    parser.add_argument("--tcp", type=float, default=0.0)
    parser.add_argument("--udp", type=float, default=0.0)
    parser.add_argument("--held-tcp", type=int, default=0)
    parser.add_argument("--held-udp", type=int, default=0)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    generator = Generator(parser.parse_args())

    def stop(*_: object) -> None:
        generator.stopped = True

    signal.signal(signal.SIGTERM, stop)
    json.dump(generator.run(), sys.stdout)
    print(flush=True)


if __name__ == "__main__":
    main()
