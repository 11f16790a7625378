# SPDX-License-Identifier: Apache-2.0
"""A sandbox with a large cluster on its API server, one proxy, and a light load on one Service.

The bulk Services have endpoints that exist nowhere; Service ``web`` has the pods of the sandbox,
and nobody changes it: of the connections to it not one may be lost, whatever happens to the proxy.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Iterator

from kubeproxy_bpf.sandbox import inventory, programs
from kubeproxy_bpf.sandbox.apiserver.bulk import Shape
from kubeproxy_bpf.sandbox.cluster import Options, Sandbox
from kubeproxy_bpf.sandbox.layout import BACKEND_PORT
from kubeproxy_bpf.sandbox.process import Place, spawn
from tests.fault.load.offered import GENERATOR
from tests.fault.load.report import Backends, Report
from tests.fault.load.stage import service
from tests.soak.readings import NODE

_LIGHT = ("--tcp=15", "--udp=5", "--held-tcp=10", "--held-udp=5")
_PATIENCE_S = 120.0


class World:
    """The proxy of node1, and the load that passes it."""

    def __init__(self, sandbox: Sandbox, server: subprocess.Popen[bytes]) -> None:
        self.sandbox = sandbox
        self._server = server
        self._load: list[tuple[str, subprocess.Popen[str]]] = []

    # ---- the proxy ----

    def start_proxy(self) -> None:
        """Start it, and return when its hooks are proved: all is programmed then."""
        before = self._starts()
        self.sandbox.start_proxy(NODE, flags=("--profiling=true",))
        self.until(lambda: self._starts() > before, "a proxy that serves")

    def restart_proxy(self, number: signal.Signals) -> float:
        """End it by a signal and start the next; seconds until that serves changes."""
        process = self.sandbox._started[f"kube-proxy-{NODE}"]
        begun = time.monotonic()
        (pid,) = self.sandbox.proxy_pids(NODE)
        os.kill(pid, number)
        process.wait(timeout=60)
        self.start_proxy()
        return time.monotonic() - begun

    def log(self) -> str:
        path = self.sandbox.directory / "log" / f"kube-proxy-{NODE}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _starts(self) -> int:
        return self.log().count("datapath_at_work")

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            if time.monotonic() > deadline or self._server.poll() is not None:
                raise RuntimeError(f"waited in vain for {what}\n{self.log()[-3000:]}")
            time.sleep(0.05)

    # ---- the load ----

    def start_load(self, vip: str, node_ports: tuple[int, int]) -> None:
        """From a pod through the ClusterIP, and from outside through the node port."""
        layout = self.sandbox.layout
        node = layout.addresses(NODE).v4
        for name, place, address, ports in (
            ("shell-1 to ClusterIP", "shell-1", vip, (80, 80)),
            ("client to node port", "client", node, node_ports),
        ):
            argv = [sys.executable, "-I", "-S", str(GENERATOR), address, *map(str, ports), *_LIGHT]
            process = subprocess.Popen(
                self.sandbox.place(place).launch(argv), stdout=subprocess.PIPE, text=True
            )
            self._load.append((name, process))
        for _, process in self._load:
            assert process.stdout and process.stdout.readline() == "ready\n"

    def stop_load(self) -> Report:
        """End it, and tell what came of it."""
        report = Report("soak")
        allowed = Backends()
        allowed.set((pod.name for pod in self.sandbox.layout.pods if pod.serves), 0.0)
        for _, process in self._load:
            process.terminate()
        for name, process in self._load:
            output, _ = process.communicate(timeout=60)
            report.take(name, json.loads(output), allowed)
        self._load.clear()
        return report

    def close(self) -> None:
        for _, process in self._load:
            process.kill()
            process.communicate()
        self._server.kill()
        self._server.wait()


@contextmanager
def standing(name: str, shape: Shape) -> Iterator[World]:
    """The sandbox, the filled API server, and Service ``web`` with load; no proxy yet."""
    options = Options(api=False, proxy=False)
    with Sandbox.up(name, options=options) as sandbox, ExitStack() as stack:
        log = sandbox.directory / "log" / "apiserver.log"
        argv = [word for word in programs.api_server(sandbox.layout) if word != "--controller"]
        argv += [f"--bulk={shape.services}x{shape.endpoints}", "--no-validation"]
        world = World(sandbox, _spawned(sandbox.place("net"), argv, log))
        stack.callback(world.close)
        world.until(sandbox.api.is_ready, "the API server")
        for manifest in inventory.manifests(sandbox.layout):
            sandbox.api.apply(manifest)
        yield world


def serve_web(world: World) -> tuple[str, tuple[int, int]]:
    """Make Service ``web``; its ClusterIP and its node ports, of TCP and of UDP."""
    sandbox = world.sandbox
    made = sandbox.api.apply(service("web", type="NodePort"))["spec"]
    sandbox.api.apply(_web_slice(sandbox))
    tcp, udp = (port["nodePort"] for port in made["ports"])
    return made["clusterIP"], (tcp, udp)


def _web_slice(sandbox: Sandbox) -> dict[str, Any]:
    pods = [pod for pod in sandbox.layout.pods if pod.serves]
    ports = [
        {"name": kind.lower(), "protocol": kind, "port": BACKEND_PORT} for kind in ("TCP", "UDP")
    ]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "web-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [pod.addresses.v4],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": pod.node,
            }
            for pod in pods
        ],
        "ports": ports,
    }


def _spawned(place: Place, argv: list[str], log: Any) -> subprocess.Popen[bytes]:
    return spawn(place, argv, log)
