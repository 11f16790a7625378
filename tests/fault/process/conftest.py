# SPDX-License-Identifier: Apache-2.0
"""A sandbox with an API server that can be asked for faults, and load that is really offered."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Callable

import pytest

from kubeproxy_bpf.errors import ApiError
from kubeproxy_bpf.libbpf import BpfMap
from kubeproxy_bpf.sandbox.cluster import Options, Sandbox

LOAD = Path(__file__).with_name("offered_load.py")
RATE, HELD = 700, 60
LEAST_RATE, LEAST_HELD = 500, 50
ATTEMPTS = 3
LEAST_SECONDS = 1.5


class Stage:
    """The sandbox, and what the scenarios do with it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.vip = ""

    def restore(self) -> None:
        """Back to one healthy proxy and four backends behind the VIP."""
        self.persist(self.clear_faults)
        if not self.sandbox.proxy_pids("node1"):
            self.start_proxy()
        self.persist(lambda: self.sandbox.scale("web", 4))
        self.until_answers(ALL)

    # ---- the cluster ----

    def put(self, manifest: dict) -> dict:
        return self.sandbox.api.apply(manifest)

    def fault(self, **fields: object) -> None:
        self.sandbox.api.request("POST", "/sandbox/faults", fields)

    def clear_faults(self) -> None:
        self.sandbox.api.request("DELETE", "/sandbox/faults")

    @staticmethod
    def persist(function: Callable[[], object], seconds: float = 30) -> None:
        """Call until the API server answers again."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                function()
                return
            except (OSError, HTTPException, ApiError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def log(self, node: str = "node1") -> str:
        path = self.sandbox.directory / "log" / f"kube-proxy-{node}.log"
        return path.read_text(errors="replace")

    # ---- what the dataplane does ----

    def ask(self, place: str = "shell-1", vip: str | None = None, port: int = 80) -> str:
        """One connection to a VIP: the backend's name, or the name of the error."""
        target = (vip or self.vip, port)

        def connect() -> str:
            import socket

            try:
                with socket.create_connection(target, 3) as sock:
                    sock.sendall(b"name\n")
                    return sock.recv(100).decode().strip()
            except OSError as error:
                return type(error).__name__

        return self.sandbox.run_in(place, connect)

    def answers(self, vip: str | None = None, times: int = 24, place: str = "shell-1") -> set[str]:
        """The backends that answer over a number of connections."""
        target = (vip or self.vip, 80)

        def connect() -> set[str]:
            import socket

            seen = set()
            for _ in range(times):
                try:
                    with socket.create_connection(target, 3) as sock:
                        sock.sendall(b"name\n")
                        seen.add(sock.recv(100).decode().strip())
                except OSError as error:
                    seen.add(type(error).__name__)
            return seen

        return self.sandbox.run_in(place, connect)

    def until_answers(
        self, expected: set[str], vip: str | None = None, seconds: float = 60
    ) -> None:
        """Wait until exactly these backends answer."""
        deadline = time.monotonic() + seconds
        while (seen := self.answers(vip)) != expected:
            assert (
                time.monotonic() < deadline
            ), f"{seen} instead of {expected}\n{self.log()[-3000:]}"
            time.sleep(0.1)

    def maps(self, node: str = "node1") -> dict[str, dict[bytes, bytes]]:
        """What the pinned hash maps and words of a node hold."""
        (found,) = self.sandbox.pin_path(node).glob("*/kpb_frontends")
        directory = found.parent
        held = {}
        for name in ("kpb_vips", "kpb_frontends"):
            with BpfMap.open_pinned(directory / name) as opened:
                held[name] = dict(opened.items())
        return held

    # ---- the proxy of node1 ----

    def proxy_pid(self) -> int:
        (pid,) = self.sandbox.proxy_pids("node1")
        return pid

    def proxy_process(self) -> subprocess.Popen[bytes]:
        return self.sandbox._started["kube-proxy-node1"]

    def kill_proxy(self, number: int = signal.SIGKILL) -> None:
        process = self.proxy_process()
        os.kill(self.proxy_pid(), number)
        process.wait(timeout=30)

    def start_proxy(self) -> None:
        self.sandbox.start_proxy("node1")

    # ---- load ----

    @contextmanager
    def load(self, place: str = "shell-1"):
        """Offer connections while the block runs; afterwards none may have failed."""
        place_ = self.sandbox.place(place)
        argv = [sys.executable, "-I", "-S", str(LOAD), self.vip, "80"]
        argv += ["--rate", str(RATE), "--held", str(HELD)]
        process = subprocess.Popen(place_.launch(argv), stdout=subprocess.PIPE, text=True)
        result: dict = {}
        try:
            assert process.stdout is not None
            assert "ready\n" == process.stdout.readline()
            begin = time.monotonic()
            yield result
            time.sleep(max(0.0, begin + LEAST_SECONDS - time.monotonic()))
        finally:
            process.terminate()
            output, _ = process.communicate(timeout=30)
        result.update(json.loads(output))
        judge(result)


class LoadNotThere(AssertionError):
    """The machine could not offer the load: the run proves nothing, good or bad."""


def judge(result: dict) -> None:
    """Nobody who offered load noticed anything, and the load was there."""
    assert {} == result["failures"], result
    assert [] == result["held_lost"], result
    assert LEAST_HELD <= result["held"], f"held connections were lost: {result}"
    assert result["held_exchanges"] > 0
    if result["rate"] < LEAST_RATE:
        raise LoadNotThere(result)


def under_load(scenario: Callable[..., None]) -> Callable[..., None]:
    """Repeat a scenario whose load was not there, since it proves nothing; the third time it fails.

    Whatever else fails, fails at once.
    """

    @functools.wraps(scenario)
    def repeated(stage: Stage, **arguments: object) -> None:
        for attempt in range(ATTEMPTS):
            try:
                scenario(stage, **arguments)
                return
            except LoadNotThere:
                if attempt == ATTEMPTS - 1:
                    raise
                stage.restore()

    return repeated


def service(name: str, **spec: object) -> dict:
    ports = [
        {"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 8080},
        {"name": "udp", "protocol": "UDP", "port": 80, "targetPort": 8080},
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": ports, **spec},
    }


ALL = {"web-1", "web-2", "web-3", "web-4"}


@pytest.fixture(scope="module")
def sandbox():
    options = Options(api_flags=("--admin", "--no-validation", "--bookmark-interval=1"))
    with Sandbox.up(f"kpbt-f{os.getpid()}", "routed", options) as sandbox:
        yield sandbox


@pytest.fixture
def stage(sandbox):
    """A stage with one Service in front of all four backends; puts everything back."""
    stage = Stage(sandbox)
    stage.vip = stage.put(service("web"))["spec"]["clusterIP"]
    stage.restore()
    yield stage
    stage.persist(stage.clear_faults)
    stage.persist(lambda: sandbox.scale("web", 4))
