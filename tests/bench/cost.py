# SPDX-License-Identifier: Apache-2.0
"""What a packet costs in the programs, by BPF_PROG_TEST_RUN on a node of its own.

A test-run repeats one frame, which a program under test rewrites. Therefore a driver restores it,
as a packet of the wanted flow, and calls the program; what the driver costs is measured with an
empty program and taken off, so that each figure is what a plain test-run of that program would
show. The packet programs and what they are compared with run in turns, and the smallest figure of
all rounds counts: noise only adds.
"""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import frames
from frames import ACK, NEXT, RANDOM, SYN, TCP, Ends, Generator
from packetpath import PacketPath
from report import save, table
from rules import Shape
from topology import BACKENDS, MAC, NODE, PORT, Row

from kubeproxy_bpf.libbpf import BpfMap, BpfObject, ObjectProgram

FLOWS = 50_000
NEW = 20_000
SERVICES = 5_000
_NOWHERE = "203.0.113.9"
_SKB_BYTES, _SKB_INGRESS, _SKB_IFINDEX = 192, 36, 40
_INSNS = 8


class Layer(NamedTuple):
    """One kind of hook: our program and what it is compared with."""

    name: str
    program: str
    suffix: str
    drop: int
    """The verdict that no measured packet may get."""

    def context(self, ifindex: int) -> bytes:
        """What a test-run is told of the device."""
        if self.suffix == "xdp":
            return struct.pack("=6I", 0, frames.FRAME_BYTES, 0, ifindex, 0, 0)
        skb = bytearray(_SKB_BYTES)
        struct.pack_into("=I", skb, _SKB_INGRESS, ifindex)
        struct.pack_into("=I", skb, _SKB_IFINDEX, ifindex)
        return bytes(skb)


LAYERS = (Layer("TC", "kpb_tc_ingress", "tc", 2), Layer("XDP", "kpb_xdp", "xdp", 1))
TARGETS = {"hot flow": 1.5, "random flow": 1.3, "new flow": 1.5, "no concern": 1.6}


class Bench:
    """Everything that is measured at one layer."""

    def __init__(self, layer: Layer, path: PacketPath, generator: Generator, prototype: BpfObject):
        self.layer = layer
        self.path = path
        self.generator = generator
        self.ours = path.programs[layer.program]
        self.others = {
            name: prototype.programs[f"{name}_{layer.suffix}"]
            for name in ("empty", "lookup", "translate", "insert")
        }
        self.port = Shape(SERVICES, ()).node_port
        self.client = Ends(MAC["c0"], MAC["n0"], NODE, self.port)
        self.ifindex = {name: _ifindex(name) for name in ("n0", "n1")}
        self.least: dict[str, float] = {}

    # ---- flows ----

    def shake_hands(self, flows: int) -> None:
        """Open connections: SYN, its answer from wherever the program sent it, and ACK."""
        for flow in range(flows):
            address, port = frames.client(flow)
            sent = self._run("n0", frames.build(self.client, address, port, TCP, SYN))
            self._run("n1", _answer(sent))
            self._run("n0", frames.build(self.client, address, port, TCP, ACK))

    def _run(self, device: str, frame: bytes) -> bytes:
        context = self.layer.context(self.ifindex[device])
        result = self.ours.test_run(frame, ctx=context)
        if result.data[26:34] == frame[26:34]:
            raise RuntimeError(f"{self.ours.name}: not translated, {self.path.counted()}")
        return result.data

    # ---- time ----

    def measure(self, name: str, program: ObjectProgram, repeat: int) -> None:
        """Run a program behind the driver, as planned; keep the least."""
        driver = self.generator.put_under_test(program)
        context = self.layer.context(self.ifindex["n0"])
        result = driver.test_run(self.generator.frame, repeat, context)
        if result.retval == frames.NOT_CALLED:
            raise RuntimeError(f"{program.name} was not called")
        self._judge(name, result.retval)
        if program is self.ours and result.data[30:34] == self.generator.frame[30:34]:
            raise RuntimeError(f"{name}: not translated, {self.path.counted()}")
        self._keep(name, result.duration_ns)

    def measure_alone(self, name: str, program: ObjectProgram, frame: bytes, repeat: int) -> None:
        """Run a program that leaves its packet as it is, without the driver."""
        context = self.layer.context(self.ifindex["n0"])
        result = program.test_run(frame, repeat, context)
        self._judge(name, result.retval)
        self._keep(name, result.duration_ns)

    def _judge(self, name: str, verdict: int) -> None:
        if verdict == self.layer.drop:
            raise RuntimeError(f"{name}: dropped, {self.path.counted()}")

    def _keep(self, name: str, duration_ns: int) -> None:
        self.least[name] = min(self.least.get(name, float("inf")), duration_ns)

    def established(self, repeat: int) -> None:
        """One flow and any of many; ours, the prototype, and nothing behind the driver."""
        hot = frames.template(self.client, TCP, ACK)
        for case, flows in (("hot flow", 1), ("random flow", FLOWS)):
            for name, program in (
                (f"{case}, ours", self.ours),
                (f"{case}, other", self.others["translate"]),
                (f"{case}, driver", self.others["empty"]),
            ):
                self.generator.plan(hot, flows, order=RANDOM)
                self.measure(name, program, repeat)

    def new(self) -> None:
        """Flows that nobody knows, each once."""
        syn = frames.template(self.client, TCP, SYN)
        for name, program in (
            ("new flow, ours", self.ours),
            ("new flow, other", self.others["insert"]),
            ("new flow, driver", self.others["empty"]),
        ):
            self.generator.plan(syn, NEW, FLOWS, NEXT)
            self.measure(name, program, NEW)

    def unconcerned(self, repeat: int) -> None:
        """A packet that passes by."""
        ends = self.client._replace(address=_NOWHERE)
        frame = frames.build(ends, *frames.client(0), TCP, ACK)
        self.measure_alone("no concern, ours", self.ours, frame, repeat)
        self.measure_alone("no concern, other", self.others["lookup"], frame, repeat)
        self.measure_alone("empty", self.others["empty"], frame, repeat)

    def figures(self) -> dict[str, dict[str, float]]:
        """By case: ours, the other, their ratio; what a plain test-run would show."""
        least, found = self.least, {}
        for case, target in TARGETS.items():
            ours, other = least[f"{case}, ours"], least[f"{case}, other"]
            driver = least.get(f"{case}, driver")
            if driver is not None:
                ours, other = (figure - driver + least["empty"] for figure in (ours, other))
            found[case] = {"ours": ours, "other": other, "ratio": ours / other, "target": target}
        return found


def main(directory: Path, load: Path, rounds: int = 7, repeat: int = 1_000_000) -> dict[str, Any]:
    """Measure both layers and print a table each."""
    results: dict[str, Any] = {}
    endpoints = tuple(f"{backend}:{PORT}" for backend in BACKENDS)
    with ExitStack() as stack:
        row = stack.enter_context(Row("cost", load))
        generator = stack.enter_context(Generator(directory))
        prototype = BpfObject.open(frames.compile_bpf("prototype", directory))
        stack.enter_context(prototype)
        prototype.load()
        table_of_prototype = stack.enter_context(prototype.maps["prototype_flows"].map)
        _fill_vips(prototype)
        path = stack.enter_context(PacketPath(row, Shape(SERVICES, endpoints, node=NODE)))
        stack.enter_context(row.inside("n"))
        for layer in LAYERS:
            bench = Bench(layer, path, generator, prototype)
            _measure(bench, table_of_prototype, rounds, repeat)
            results[layer.name] = _report(bench)
    save(directory, "packet_cost", results)
    return results


def _measure(bench: Bench, other: BpfMap, rounds: int, repeat: int) -> None:
    """New flows come first: they begin with empty tables, the rest needs them filled."""
    for number in range(rounds):
        _tell(bench, "new flows", number, rounds)
        for flows in (bench.path.flows, other):
            _clear(flows)
        bench.new()
    bench.path.clear_flows()
    _clear(other)
    _tell(bench, f"opening {FLOWS} connections", 0, 1)
    bench.shake_hands(FLOWS)
    bench.generator.plan(frames.template(bench.client, TCP, ACK), FLOWS)
    driver = bench.generator.put_under_test(bench.others["insert"])
    driver.test_run(bench.generator.frame, FLOWS)
    for number in range(rounds):
        _tell(bench, "established", number, rounds)
        bench.established(repeat)
        bench.unconcerned(repeat)
    print(file=sys.stderr)
    bench.path.clear_flows()
    _clear(other)


def _tell(bench: Bench, what: str, number: int, rounds: int) -> None:
    text = f"\r{bench.layer.name}: {what}, round {number + 1} of {rounds}"
    print(text.ljust(60), end="", file=sys.stderr, flush=True)


def _report(bench: Bench) -> dict[str, Any]:
    figures = bench.figures()
    others = {"new flow": "two inserts", "no concern": "empty + lookup"}
    rows = [
        [case, f["ours"], others.get(case, "prototype"), f["other"], f["ratio"], f["target"]]
        for case, f in figures.items()
    ]
    columns = ["case", "ns", "against", "ns", "ratio", "goal"]
    print(table(f"{bench.layer.name}: program cost, least of the rounds", columns, rows))
    info = bench.ours.info()
    size = {"instructions": info.xlated_bytes // _INSNS, "verified": info.verified_insns}
    print(f"{bench.ours.name}: {size['instructions']} instructions, {size['verified']} verified\n")
    return {"cases": figures, "raw": bench.least, "empty": bench.least["empty"], **size}


def _clear(flows: BpfMap) -> None:
    keys = list(flows.keys())
    if keys:
        flows.delete_batch(b"".join(keys), len(keys))


def _fill_vips(prototype: BpfObject) -> None:
    """As many addresses as the packet programs know."""
    with prototype.maps["prototype_vips"].map as vips:
        for number in range(SERVICES):
            vips.update(struct.pack("!4I", 0, 0, 0xFFFF, 0x0A600000 + number), bytes(4))


def _answer(sent: bytes) -> bytes:
    """SYN and ACK from the backend to which a SYN went."""
    ends = Ends(MAC["b0"], MAC["n1"], _dotted(sent[26:30]), struct.unpack("!H", sent[34:36])[0])
    source, port = _dotted(sent[30:34]), struct.unpack("!H", sent[36:38])[0]
    return frames.build(ends, source, port, TCP, SYN | ACK)


def _dotted(address: bytes) -> str:
    return ".".join(map(str, address))


def _ifindex(name: str) -> int:
    return socket.if_nametoindex(name)
