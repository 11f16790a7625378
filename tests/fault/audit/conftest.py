# SPDX-License-Identifier: Apache-2.0
"""A proxy that looks after maps and hooks every second, and a client that notices."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest

from tests.fault.audit.foreigner import Foreigner
from tests.fault.load.stage import Stage, staged
from tests.fault.load.world import World

CLIENT = """
import json, signal, socket, sys, time
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
answers, failures = {}, []
print("ready", flush=True)
while not stop:
    try:
        with socket.create_connection((sys.argv[1], 80), 3) as sock:
            sock.sendall(b"name\\n")
            name = sock.recv(100).decode().strip()
            answers[name] = answers.get(name, 0) + 1
    except OSError as error:
        failures.append(repr(error))
    time.sleep(0.004)
print(json.dumps([answers, failures]))
"""


@pytest.fixture
def stage(sandbox: World) -> Iterator[Stage]:
    """Its proxies look every second."""
    with staged(Stage(sandbox, "audit", ["--bpf-audit-period=1s"])) as made:
        yield made


@pytest.fixture
def foreigner(stage: Stage) -> Iterator[Foreigner]:
    """Somebody who writes to the maps of node1."""
    (found,) = stage.sandbox.pin_path("node1").glob("*/kpb_frontends")
    with Foreigner(found.parent) as made:
        yield made


class Connecting:
    """What became of the connections of a client that never stops."""

    def __init__(self) -> None:
        self.answers: dict[str, int] = {}
        self.failures: list[str] = []


@contextmanager
def connecting(stage: Stage, vip: str = "") -> Iterator[Connecting]:
    """Connect to a VIP from a pod as long as the block runs, one connection after the other."""
    argv = [sys.executable, "-I", "-S", "-c", CLIENT, vip or stage.vip]
    place = stage.sandbox.place("shell-1")
    process = subprocess.Popen(place.launch(argv), stdout=subprocess.PIPE, text=True)
    told = Connecting()
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield told
        process.terminate()
        output, _ = process.communicate(timeout=30)
        told.answers, told.failures = json.loads(output)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def logged(stage: Stage, since: int, event: str, **fields: str) -> list[str]:
    """Lines of the log of node1 with this event and these fields, from a place in the log on."""
    lines = stage.log()[since:].splitlines()
    return [
        line
        for line in lines
        if event in line and all(f"{key}={value}" in line for key, value in fields.items())
    ]


def links_of(stage: Stage) -> Path:
    return stage.sandbox.pin_path("node1") / "links"
