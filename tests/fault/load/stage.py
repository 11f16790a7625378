# SPDX-License-Identifier: Apache-2.0
"""The stage of the scenarios: a sandbox, one Service in front of four backends, and load on it.

The API server can be asked for faults. Load comes from a pod through the ClusterIP (by the hooks
of the sockets) and from the client outside through a node port of node1 (by packets), TCP and UDP,
so that what the proxy of node1 does, or does not do, is noticed. ``restore`` brings everything back
to one healthy proxy, started as the suite has it, and all backends.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from http.client import HTTPException
from typing import Any, Callable, Iterator, Sequence, TypeVar

from kubeproxy_bpf.errors import ApiError
from kubeproxy_bpf.libbpf import BpfMap
from tests.fault.load.offered import Load, Source, offered
from tests.fault.load.world import NODE, World

ALL = frozenset({"web-1", "web-2", "web-3", "web-4"})
Manifest = dict[str, Any]
LASTING = frozenset({"web", "kubernetes"})
"""The Services that no scenario leaves behind."""


class Stage:
    """The sandbox, and what the scenarios do with it."""

    def __init__(self, sandbox: World, scenario: str = "", flags: Sequence[str] = ()) -> None:
        self.sandbox = sandbox
        self.scenario = scenario
        self.vip = ""
        self.node_ports = (0, 0)
        """Of TCP and of UDP."""
        self.flags = tuple(flags)
        """Of every proxy that the scenarios of a suite start."""
        self.keeps_proxy = False
        """The scenario begins with a proxy of its own: ``restore`` leaves that to it."""

    def furnish(self) -> None:
        """The Service of the scenarios."""
        spec = self.put(service("web", type="NodePort"))["spec"]
        self.vip = spec["clusterIP"]
        first, second = (port["nodePort"] for port in spec["ports"])
        self.node_ports = (first, second)

    def restore(self) -> None:
        """Back to one healthy proxy and four backends behind the VIP."""
        self.persist(self.clear_faults)
        self.persist(lambda: self.sandbox.scale("web", 4))
        if not self.keeps_proxy:
            self.want_proxy()

    def tidy(self) -> None:
        """Take away what a scenario that failed has left behind."""
        for each in self.sandbox.api.list("Service"):
            if each["metadata"]["name"] not in LASTING:
                self.delete(service(each["metadata"]["name"]))

    # ---- the cluster ----

    def put(self, manifest: Manifest) -> Manifest:
        return self.sandbox.api.apply(manifest)

    def delete(self, manifest: Manifest) -> None:
        """Delete an object that may have gone already."""
        try:
            self.sandbox.api.delete(manifest)
        except ApiError as error:
            if error.status != 404:
                raise

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

    # ---- what the dataplane does ----

    def target(self, place: str) -> tuple[str, int]:
        """Where a place finds the Service by TCP: the client outside has only the node port."""
        if place == "client":
            return self.sandbox.layout.addresses("node1").v4, self.node_ports[0]
        return self.vip, 80

    def ask(self, place: str = "shell-1", vip: str | None = None, port: int = 80) -> str:
        """One connection to a VIP: the backend's name, or the name of the error."""
        target = (vip, port) if vip else self.target(place)
        return self.sandbox.run_in(place, partial(_ask, target))

    def answers(self, vip: str | None = None, times: int = 24, place: str = "shell-1") -> set[str]:
        """The backends that answer over a number of connections."""
        target = (vip, 80) if vip else self.target(place)
        return self.sandbox.run_in(place, lambda: {_ask(target) for _ in range(times)})

    def until_answers(
        self,
        expected: set[str] | frozenset[str],
        vip: str | None = None,
        seconds: float = 60,
        place: str = "shell-1",
    ) -> None:
        """Wait until exactly these backends answer."""
        deadline = time.monotonic() + seconds
        while (seen := self.answers(vip, place=place)) != expected:
            told = f"{seen} instead of {expected}\n{self.log()[-3000:]}"
            assert time.monotonic() < deadline, told
            time.sleep(0.1)

    def until(self, condition: Callable[[], object], seconds: float = 120) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log()[-3000:]
            time.sleep(0.05)

    def maps(
        self, node: str = "node1", names: Sequence[str] = ("kpb_vips", "kpb_frontends")
    ) -> dict[str, dict[bytes, bytes]]:
        """What pinned maps of a node hold."""
        (found,) = self.sandbox.pin_path(node).glob("*/kpb_frontends")
        held = {}
        for name in names:
            with BpfMap.open_pinned(found.parent / name) as opened:
                held[name] = dict(opened.items())
        return held

    # ---- the proxy of node1 ----

    def log(self, node: str = "node1") -> str:
        path = self.sandbox.directory / "log" / f"kube-proxy-{node}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def starts(self) -> int:
        """How many proxies of node1 have come so far that all their programs were at work."""
        return self.log().count("datapath_at_work")

    def proxy_pid(self) -> int:
        (pid,) = self.sandbox.proxy_pids("node1")
        return pid

    def proxy_process(self) -> subprocess.Popen[bytes]:
        return self.sandbox._started["kube-proxy-node1"]

    def kill_proxy(self, number: int = signal.SIGKILL) -> None:
        process = self.proxy_process()
        os.kill(self.proxy_pid(), number)
        process.wait(timeout=30)

    def want_proxy(self, *flags: str, command: str = "") -> None:
        """One proxy, started so, before which all backends stand; the one that runs, if it was."""
        wanted = self.sandbox.way == (command, *self.flags, *flags)
        if not wanted or len(self.sandbox.proxy_pids(NODE)) != 1:
            self.change_proxy(*flags, command=command)
        self.until_served()

    def change_proxy(self, *flags: str, command: str = "") -> None:
        """End whatever proxy there is, and start another."""
        self.end_proxies()
        self.start_and_await(*flags, command=command)

    def end_proxies(self) -> None:
        """None is there any more, and what they had programmed serves on."""
        for pid in self.sandbox.proxy_pids(NODE):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        last = self.sandbox._started.get(f"kube-proxy-{NODE}")
        if last is not None:
            last.wait(timeout=30)

    def until_served(self) -> None:
        """All backends answer, inside and outside."""
        for place in ("shell-1", "client"):
            self.until_answers(ALL, place=place)

    def start_proxy(self, *flags: str, command: str = "") -> None:
        """Start a proxy on node1, and return at once."""
        last = self.sandbox._started.get(f"kube-proxy-{NODE}")
        if last is not None:
            last.poll()  # its status, if it has ended by itself
        self.sandbox.start_proxy(NODE, command, (*self.flags, *flags))

    def start_and_await(self, *flags: str, command: str = "") -> None:
        """Start one, and wait until it has synced and its programs are at work."""
        before = self.starts()
        self.start_proxy(*flags, command=command)
        self.until(lambda: self.starts() > before)

    # ---- load ----

    def sources(self) -> list[Source]:
        """East-west by the hooks of the sockets, north-south by packets."""
        inside, outside = self.sandbox.place("shell-1"), self.sandbox.place("client")
        node = self.sandbox.layout.addresses("node1").v4
        return [
            Source("shell-1 to ClusterIP", inside, self.vip, 80, 80),
            Source("client to node port", outside, node, *self.node_ports),
        ]

    def load(self, record: bool = True) -> AbstractContextManager[Load]:
        """Offer load while the block runs; all backends may answer unless it tells otherwise."""
        return offered(self.sources(), ALL, self.scenario, record)


def _ask(target: tuple[str, int]) -> str:
    try:
        with socket.create_connection(target, 3) as sock:
            sock.sendall(b"name\n")
            return sock.recv(100).decode().strip()
    except OSError as error:
        return type(error).__name__


def service(name: str, **spec: object) -> Manifest:
    """A Service in front of the backends of the sandbox, TCP and UDP."""
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


S = TypeVar("S", bound=Stage)


@contextmanager
def staged(stage: S) -> Iterator[S]:
    """A stage that is restored before and tidied after a scenario."""
    stage.tidy()
    stage.furnish()
    stage.restore()
    try:
        yield stage
    finally:
        stage.persist(stage.clear_faults)
        stage.persist(lambda: stage.sandbox.scale("web", 4))
