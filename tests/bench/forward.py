# SPDX-License-Identifier: Apache-2.0
"""Packets per second through a node port to a remote backend and back, on one processor.

A generator of live XDP frames plays the clients, an XDP program reflects the frames at the backend,
another counts at the client what came back in the right name. All of it runs on the processor of
the node, one packet after the other: there is no second machine to offer more than the node can
take. What generator, reflector and counter cost is measured too ("ends": the frames turn around at
the node's first device), so that what remains is the node's.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, NamedTuple

import rules
from frames import NEXT, RANDOM, UDP, Ends, Generator, template
from packetpath import PacketPath
from report import Ratio, paired_ratio, save, table
from rules import Shape
from topology import BACKEND, BACKENDS, MAC, NODE, PORT, Row

from kubeproxy_bpf.libbpf import AttachType, Link

SIZES = (1, 5000)
FLOWS = (1, 100_000)
BASE = "nftables"
GOALS = {"XDP": 3.0, "TC": 1.7}
BURSTS = 5
"""A sample is the best of so many bursts: what else runs on the machine comes between some."""
CPU = min(os.sched_getaffinity(0))
_BATCH = 64
_XDP_NATIVE = 1 << 2


class Road(NamedTuple):
    """A row, ready to forward, and what its client sends."""

    name: str
    row: Row
    to: tuple[str, int]
    answers_from: tuple[str, int] | None
    """None: the counter takes everything."""
    why: Callable[[], object] = dict
    """Says more when frames are missing."""

    def send(self, generator: Generator, flows: int, count: int, order: int) -> float:
        """Send frames; return the processor's seconds. Fails if not all came back."""
        ends = Ends(MAC["c0"], MAC["n0"], *self.to)
        generator.plan(template(ends, UDP), flows, order=order, vip=self.answers_from)
        generator.arrivals()
        with self.row.inside("c"):
            device = socket.if_nametoindex("c0")
            begin = _busy_s()
            generator.programs["generate"].send_frames(bytes(64), count, device, _BATCH)
            passed = _busy_s() - begin
        good, other = generator.arrivals()
        if good < 0.99 * count:
            raise RuntimeError(f"{self.name}: {good} (+{other}) of {count} back; {self.why()}")
        return passed * count / good


class Roads:
    """All variants, each in a row of its own."""

    def __init__(self, stack: ExitStack, generator: Generator, load: Path) -> None:
        self._stack = stack
        self._generator = generator
        self._load = load
        self._number = 0
        self.all: dict[tuple[str, int], Road] = {}

    def build(self) -> None:
        direct = (BACKEND, PORT)
        ends = self._row("reflect")
        self._xdp(ends, "n", "n0", "reflect")
        self.all["ends", 0] = Road("ends", ends, direct, None)
        wire = self._row("reflect")
        for device in ("n0", "n1"):
            self._xdp(wire, "n", device, "wire")
        with wire.inside("n"):
            indexes = socket.if_nametoindex("n0"), socket.if_nametoindex("n1")
        self._generator.wire(indexes)
        self.all["wire", 0] = Road("wire", wire, direct, None)
        routing = self._row("reflect")
        self._by_stack(routing)
        self.all["routing", 0] = Road("routing", routing, direct, None)
        for size in SIZES:
            for name, xdp in (("XDP", True), ("TC", False)):
                self._packet_path(name, size, xdp)
            for name, text, command in (
                ("iptables", rules.iptables, ["iptables-legacy-restore"]),
                ("nftables", rules.nftables, ["nft", "-f", "-"]),
            ):
                self._rules(name, size, text, command)

    def _packet_path(self, name: str, size: int, xdp: bool) -> None:
        row, wanted = self._row("reflect"), shape(size)
        path = self._stack.enter_context(PacketPath(row, wanted))
        path.attach(xdp=xdp)
        if not xdp:
            self._by_stack(row)
        to = (NODE, wanted.node_port)
        self.all[name, size] = Road(f"{name} {size}", row, to, to, path.counted)

    def _rules(
        self, name: str, size: int, text: Callable[[Shape], str], command: list[str]
    ) -> None:
        print(f"installing {name} rules of {size} Services", flush=True)
        row, wanted = self._row("reflect"), shape(size)
        row.run("n", command, stdin=text(wanted))
        self._by_stack(row)
        to = (NODE, wanted.node_port)
        self.all[name, size] = Road(f"{name} {size}", row, to, to)

    def _row(self, backend: str) -> Row:
        self._number += 1
        row = self._stack.enter_context(Row(f"fwd{self._number}", self._load))
        self._xdp(row, "c", "c0", "sink")
        self._xdp(row, "b", "b0", backend)
        return row

    def _xdp(self, row: Row, part: str, device: str, program: str) -> None:
        fd = self._generator.programs[program].fd
        with row.inside(part):
            index = socket.if_nametoindex(device)
            link = Link.create(fd, index, AttachType.XDP, _XDP_NATIVE)
        self._stack.enter_context(link)

    @staticmethod
    def _by_stack(row: Row) -> None:
        """Without an XDP program, a veth device takes redirected frames if it has GRO."""
        for device in ("n0", "n1"):
            row.offload("n", device, "gro", "on")


def _busy_s() -> float:
    """Processor time of this thread, which carries the frames all the way, as a batch is sent.

    What a batch leaves over is done by the processor's own kernel thread.
    """
    left_over = int(_SOFTIRQ.read_text().split()[0]) if _SOFTIRQ else 0
    return time.thread_time() + left_over / 1e9


def _softirq_thread(cpu: int) -> Path | None:
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text() == f"ksoftirqd/{cpu}\n":
                return comm.with_name("schedstat")
        except OSError:
            continue  # ended meanwhile
    return None


_SOFTIRQ = _softirq_thread(CPU)


def shape(size: int) -> Shape:
    """As many backends as the ports for masquerading of 100,000 flows need."""
    endpoints = tuple(f"{backend}:{PORT}" for backend in BACKENDS)
    return Shape(size, endpoints, "udp", NODE)


def main(directory: Path, load: Path, rounds: int = 7, count: int = 400_000) -> dict[str, Any]:
    """Measure all roads and print a table."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CPU})
    try:
        with ExitStack() as stack:
            generator = stack.enter_context(Generator(directory))
            roads = Roads(stack, generator, load)
            roads.build()
            samples = _measure(generator, roads.all, rounds, count)
    finally:
        os.sched_setaffinity(0, before)
    results = _summarise(samples)
    save(directory, "packet_rate", results)
    return results


Sample = dict[tuple[str, int, int], list[float]]


def _measure(
    generator: Generator, roads: dict[tuple[str, int], Road], rounds: int, count: int
) -> Sample:
    """Nanoseconds of a frame's whole way, by variant, Services and flows."""
    samples: Sample = {}
    keys = [(*key, flows) for flows in FLOWS for key in roads]
    for number in range(rounds):
        print(f"\rforwarding: round {number + 1} of {rounds}", end="", file=sys.stderr, flush=True)
        turn = number % len(keys)
        for name, size, flows in keys[turn:] + keys[:turn]:
            road = roads[name, size]
            road.send(generator, flows, max(flows, 1000), NEXT)
            burst = count // BURSTS
            seconds = min(road.send(generator, flows, burst, RANDOM) for _ in range(BURSTS))
            samples.setdefault((name, size, flows), []).append(seconds / burst * 1e9)
    print(file=sys.stderr)
    return samples


def _summarise(samples: Sample) -> dict[str, Any]:
    """Packets per second of the whole way; and of the node, by what the ends do not cost."""
    results: dict[str, Any] = {"goals": GOALS}
    for flows in FLOWS:
        ends = samples["ends", 0, flows]
        rows = []
        for (name, size, of), values in samples.items():
            if of != flows:
                continue
            entry = _entry(values, ends, samples.get((BASE, size or SIZES[0], flows)))
            results[f"{name} {size} {flows}"] = entry
            ratio = Ratio(entry["ratio"], entry["low"], entry["high"])
            title = f"{name}, {size} Services" if size else name
            row = [title, entry["mpps"], entry["node_mpps"], entry["node_ns"], ratio]
            rows.append([*row, entry["node_ratio"], GOALS.get(name, "")])
        columns = ["way", "Mpps, all", "Mpps, node", "ns, node"]
        columns += [f"of {BASE} [95 %]", "node's", "goal"]
        print(table(f"there and back, {flows} flows, one processor", columns, rows))
    return results


def _entry(values: list[float], ends: list[float], base: list[float] | None) -> dict[str, float]:
    """The node handles two packets of each frame's way."""
    assert base is not None
    ratio = paired_ratio(base, values)
    node = (min(values) - min(ends)) / 2
    node_of_base = (min(base) - min(ends)) / 2
    return {
        "mpps": 1e3 / min(values),
        "node_ns": node,
        "node_mpps": 1e3 / node if node > 0 else float("inf"),
        "node_ratio": node_of_base / node if node > 0 else float("inf"),
        "ratio": ratio.mean,
        "low": ratio.low,
        "high": ratio.high,
    }
