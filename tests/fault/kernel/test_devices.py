# SPDX-License-Identifier: Apache-2.0
"""Devices, their addresses and whole network namespaces come and go under load."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import ExitStack
from itertools import count

import pytest

from tests.fault.kernel.node import NODE, KernelStage
from tests.fault.load.offered import under_load

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

PER_SECOND = 700
ABSENT_S = 2
"""The uplink is away for a tenth of a second; a busy machine may take longer."""
HELD = 60
_NUMBERS = count()


@under_load
def test_the_uplink_vanishes_and_comes_back_with_the_same_name(stage: KernelStage) -> None:
    """Its new number is learnt; flows that came by the old one go on, but for those in between."""
    before, since = stage.chains(), len(stage.log())
    with stage.load() as load:
        most = ABSENT_S * PER_SECOND
        load.expect(refused=most, reset=HELD, timed_out=HELD, otherwise_failed=most, held_lost=HELD)
        stage.renew_uplink()
        with load.recovering():
            stage.until(lambda: stage.chains() == before)
            assert set() == stage.answers(place="client") - {"web-1", "web-2", "web-3", "web-4"}

    assert "devices_not_looked_at" not in stage.log()[since:]


@under_load
def test_a_node_address_comes_and_goes(stage: KernelStage) -> None:
    """Node ports are there at once with it, and refused once it is gone; the others' go on."""
    *network, last = stage.sandbox.layout.addresses(NODE).v4.split(".")
    address = ".".join([*network, "77"])
    gateway = stage.sandbox.layout.addresses(NODE).v4
    port = stage.node_ports[0]

    def asked() -> str:
        return stage.ask("client", address, port)

    stage.ip(f"route add {address} via {gateway} dev nodes", "net")
    try:
        with stage.load() as load:
            stage.ip(f"addr add {address}/24 dev eth0")
            with load.recovering():
                stage.until(lambda: asked().startswith("web-"))
            stage.ip(f"addr del {address}/24 dev eth0")
            stage.until(lambda: not asked().startswith("web-"))
    finally:
        stage.ip(f"route del {address}", "net")


def test_many_pods_come_and_go(stage: KernelStage, long: bool) -> None:
    """Nobody notices, all of them are served, and nothing of them is left behind."""
    churned(stage=stage, batches=20 if long else 2, pods=50 if long else 20)


@under_load
def churned(stage: KernelStage, batches: int, pods: int) -> None:
    before, use, processor_s = stage.chains(), stage.use(), stage.processor_s()
    with stage.load() as load:
        for _ in range(batches):
            with Pods(stage, pods) as made:
                wanted = before | dict.fromkeys(made.devices, (1, 1))
                stage.until(lambda: stage.chains() == wanted, 120)
                assert made.answer()
        with load.recovering():
            stage.until(lambda: stage.use().pins == use.pins)
            stage.until(lambda: stage.use().devices == use.devices)
            stage.until(lambda: stage.use().descriptors <= use.descriptors + 3)
    print(f"{batches * pods} pods: {stage.processor_s() - processor_s:.2f} s of a processor")

    assert before == stage.chains()
    assert "Traceback" not in stage.log()


class Pods:
    """Some pods of node1: network namespaces with a veth each, as a CNI plugin makes them."""

    def __init__(self, stage: KernelStage, number: int) -> None:
        self._stage = stage
        prefix = f"kpbt-pod{os.getpid()}"
        self._names = [f"{prefix}-{next(_NUMBERS)}" for _ in range(number)]
        self.devices = [f"p{name.rpartition('-')[2]}" for name in self._names]
        self._ends = ExitStack()

    def __enter__(self) -> Pods:
        self._ends.callback(self._remove)
        try:
            _batch([f"netns add {name}" for name in self._names])
            lines = []
            for position, (name, device) in enumerate(zip(self._names, self.devices)):
                lines += [
                    f"link add name {device} type veth peer name eth0 netns /run/netns/{name}",
                    f"addr add 169.254.1.1/32 dev {device}",
                    f"link set dev {device} up",
                    # Namespaces that were deleted may take a moment, and their routes with them.
                    f"route replace {_address(position)} dev {device}",
                ]
            self._stage.ip("\n".join(lines))
            for position, name in enumerate(self._names):
                lines = [
                    f"addr add {_address(position)}/32 dev eth0",
                    "link set dev eth0 up",
                    "route add 169.254.1.1 dev eth0 scope link",
                    "route add default via 169.254.1.1 dev eth0",
                ]
                _batch(lines, "nsenter", f"--net=/run/netns/{name}")
        except BaseException:
            self._ends.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def _remove(self) -> None:
        there = set(os.listdir("/run/netns"))
        _batch([f"netns del {name}" for name in self._names if name in there])

    def answer(self) -> bool:
        """Whether the last of them reaches the Service by packets: it is in no group with hooks."""
        words = ["nsenter", f"--net=/run/netns/{self._names[-1]}", "python3", "-IS", "-c", _ASK]
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            asked = subprocess.run([*words, self._stage.vip], capture_output=True, text=True)
            if asked.stdout.startswith("web-"):
                return True
        return False


_ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], 80), 1) as sock:
    sock.sendall(b"name\\n")
    print(sock.recv(100).decode())
"""


def _address(position: int) -> str:
    return f"10.99.{position // 250}.{position % 250 + 1}"


def _batch(lines: list[str], *words: str) -> None:
    done = subprocess.run(
        [*words, "ip", "-batch", "-"], input="\n".join(lines), capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
