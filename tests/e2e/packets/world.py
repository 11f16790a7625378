# SPDX-License-Identifier: Apache-2.0
"""The world of the packet tests: a sandbox, its Services, and how their addresses are reached.

A world can be strict: nodes that check the way of their packets (``rp_filter``), and netfilter with
the rules that a CNI and a careful administrator bring. ``table`` says what must hold in it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Callable, Iterable, Iterator, TypeVar

from kubeproxy_bpf.sandbox import backend
from kubeproxy_bpf.sandbox.cluster import Options, Sandbox
from kubeproxy_bpf.sandbox.layout import BACKEND_PORT, SERVICE_CIDRS, Topology
from kubeproxy_bpf.sandbox.process import Place as Spot
from kubeproxy_bpf.sandbox.process import run_in
from tests.e2e.packets.asking import Target, Told, ask
from tests.e2e.packets.netfilter import make_strict
from tests.e2e.packets.objects import (
    BULK_BACKEND_PORT,
    BULK_PORT,
    HOST_PORT,
    PORT,
    addresses_of,
    full_service,
    host_port_pod,
    service_manifest,
    slice_manifest,
)
from tests.e2e.packets.table import SERVICES, Place, Row, Service, Via

T = TypeVar("T")

PRESERVE = "--bpf-local-source=preserve"
MASQUERADE = "--bpf-local-source=masquerade"
_BULK_PROGRAM = Path(__file__).with_name("bulk.py")
_DEADLINE_S = 90.0
_MOVES = count()
_NAMESPACES = {
    Place.CLIENT: "client",
    Place.HOST: "node1",
    Place.POD: "shell-1",
    Place.SERVER: "web-1",
    Place.HOOKED_HOST: "node1",
    Place.HOOKED_POD: "shell-1",
}


class World:
    """A sandbox with the Services of the tests; leaving ``stack`` ends what was started in it."""

    def __init__(self, sandbox: Sandbox, flags: tuple[str, ...], strict: bool) -> None:
        self.sandbox = sandbox
        self.layout = sandbox.layout
        self.flags = flags
        self.strict = strict
        self.preserving = PRESERVE in flags
        self.stack = ExitStack()
        self.cluster_ips: dict[str, list[str]] = {}

    def begin(self) -> None:
        """Start everything, in the order in which a node would."""
        for v in SERVICE_CIDRS:
            # Only a test asks for cluster IPs from outside; no cluster has such a way.
            gateway = self.layout.addresses("node1")[":" in v]
            self.ip("net", "route", "add", v, "via", gateway)
        if self.strict:
            for node in self.layout.nodes:
                make_strict(self.layout, node)
        for name in self.layout.node_names:
            self.start(name, Path(backend.__file__), name, str(BACKEND_PORT))
        for name in (
            *(pod.name for pod in self.layout.pods if pod.serves),
            *self.layout.node_names,
        ):
            self.start(name, _BULK_PROGRAM, str(BULK_BACKEND_PORT))
        self.sandbox.api.apply(host_port_pod(self.layout))
        for service in SERVICES:
            self.put(service)

    # ---- proxies ----

    def start_proxies(self, *flags: str) -> None:
        """Start the proxies of both nodes; more flags win over those of the world."""
        for name in self.layout.node_names:
            self.sandbox.start_proxy(name, flags=(*self.flags, *flags))
        self.await_proxies()

    def start_proxy(self, node: str, *flags: str, command: str = "") -> None:
        """Start one again, or a command in its place, and wait until it follows the API server."""
        self.sandbox.start_proxy(node, command, (*self.flags, *flags))
        self.await_proxies()

    def await_proxies(self) -> None:
        """Wait until all that was started serves sockets and, a moment later, packets."""
        self.sandbox.wait_ready()
        self.settle()
        for via in (Via.NODE1, Via.NODE2):
            for family in (0, 1):
                asked = partial(self.ask, Place.CLIENT, self.target("TCP", "all", via, family))
                wait(lambda asked=asked: asked().peer != "", True)

    def end_proxy(self, node: str, number: int) -> None:
        process = self.sandbox._started[f"kube-proxy-{node}"]
        process.send_signal(number)
        process.wait(timeout=30)

    # ---- places ----

    def spot(self, place: Place | str) -> Spot:
        """A namespace and a control group: without hooks, unless the place says so."""
        if isinstance(place, str) or place in (Place.HOOKED_HOST, Place.HOOKED_POD):
            name = place if isinstance(place, str) else _NAMESPACES[place]
            return self.sandbox.place(name)
        # No hook is on the group of the outside client.
        return self.sandbox.place(_NAMESPACES[place])._replace(
            cgroup=self.sandbox.place("client").cgroup
        )

    def run(self, place: Place | str, function: Callable[[], T]) -> T:
        return run_in(self.spot(place), function)

    def ask(self, place: Place | str, target: Target, source_port: int = 0) -> Told:
        """One exchange from a place."""
        return self.run(place, partial(ask, target, source_port=source_port))

    def ip(self, place: str, *arguments: str) -> str:
        """Run ``ip``, which must not fail."""
        return self.command(place, "ip", *arguments)

    def command(self, place: str, *argv: str) -> str:
        done = self.sandbox.exec(place, argv)
        assert done.returncode == 0, (place, argv, done.stderr)
        return done.stdout

    def start(self, place: str, script: Path, *arguments: str) -> None:
        """Run a plain script in a place until the world ends."""
        argv = [sys.executable, "-I", "-S", str(script), *arguments]
        process = subprocess.Popen(self.spot(place).launch(argv), stdout=subprocess.DEVNULL)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)

    def own_address(self, place: Place, family: int) -> str:
        return self.layout.addresses(_NAMESPACES[place])[family]

    @cached_property
    def node_addresses(self) -> dict[str, set[str]]:
        """Every address that a node has; nodes may share some, such as the gateway of pods."""
        return {
            node: {
                address["local"]
                for device in json.loads(self.ip(node, "-j", "addr"))
                for address in device.get("addr_info", ())
            }
            for node in self.layout.node_names
        }

    # ---- Services ----

    def put(self, service: Service) -> None:
        """Create a Service with everything that it can have, and its slices."""
        answer = self.sandbox.api.apply(full_service(service, self.layout.client))
        self.cluster_ips[service.name] = answer["spec"]["clusterIPs"]
        self.endpoints(service.name, service.backends, settle=False)

    def endpoints(self, name: str, backends: Iterable[str], settle: bool = True) -> None:
        """Let exactly these be the endpoints of a Service."""
        for family in (0, 1):
            self.sandbox.api.apply(slice_manifest(self.layout, name, family, tuple(backends)))
        if settle:
            self.settle()

    def delete(self, name: str) -> None:
        """Delete a Service and its slices."""
        self.sandbox.api.delete(service_manifest(name, PORT))
        for family in (0, 1):
            self.sandbox.api.delete(slice_manifest(self.layout, name, family, ()))

    def settle(self) -> None:
        """Wait until both proxies follow all that the API server was told so far.

        A Service of its own moves; its clients pass the hooks, whose maps are those of the packets.
        """
        number = next(_MOVES)
        pods = [pod.name for pod in self.layout.pods if pod.serves]
        pod = pods[number % len(pods)]
        marker = self.sandbox.api.apply(service_manifest("marker", 1000 + number))
        for family in (0, 1):
            self.sandbox.api.apply(slice_manifest(self.layout, "marker", family, (pod,)))
        for place in ("shell-1", "shell-2"):
            for vip in marker["spec"]["clusterIPs"]:
                look = partial(ask, Target("TCP", vip, 1000 + number), 0.2)
                wait(lambda look=look, place=place: self.run(place, look).name, pod)

    # ---- rows ----

    def address(self, service: str, via: Via, family: int) -> str:
        if via is Via.CLUSTER_IP:
            return self.cluster_ips[service][family]
        if via is Via.EXTERNAL_IP:
            return addresses_of(service).external[family]
        if via is Via.LOAD_BALANCER:
            return addresses_of(service).balancer[family]
        return self.layout.addresses("node2" if via is Via.NODE2 else "node1")[family]

    def port(self, service: str, via: Via) -> int:
        if via is Via.HOST_PORT:
            return HOST_PORT
        return addresses_of(service).node_port if via in (Via.NODE1, Via.NODE2) else PORT

    def bulk_port(self, service: str, via: Via) -> int:
        on_node = via in (Via.NODE1, Via.NODE2)
        return addresses_of(service).bulk_node_port if on_node else BULK_PORT

    def target(self, protocol: str, service: str, via: Via, family: int) -> Target:
        return Target(protocol, self.address(service, via, family), self.port(service, via))

    def targets(self, row: Row) -> list[Target]:
        """A row in both protocols and families."""
        connected = not isinstance(row.expected, tuple)
        port = row.port or self.port(row.service, row.via)
        return [
            Target(protocol, self.address(row.service, row.via, family), port, True)._replace(
                connected=connected or protocol == "TCP"
            )
            for protocol in ("TCP", "UDP")
            for family in (0, 1)
        ]

    def named(self, place: Place, asked: str, told: Told) -> Told:
        """The same with a name for the peer: that of the asked node, "own", or that of another."""
        own = self.layout.addresses(_NAMESPACES[place])
        for name in (asked, *self.layout.node_names):
            if told.peer in self.node_addresses[name]:
                return told._replace(peer=name)
        return told._replace(peer="own") if told.peer in own else told


def wait(look: Callable[[], object], expected: object) -> None:
    """Look until what is seen is what is expected."""
    deadline = time.monotonic() + _DEADLINE_S
    while (seen := look()) != expected:
        assert time.monotonic() < deadline, f"{seen} instead of {expected}"
        time.sleep(0.02)


@contextmanager
def standing(
    name: str,
    topology: Topology,
    flags: Iterable[str] = (),
    strict: bool = False,
    proxies: bool = True,
) -> Iterator[World]:
    """A world that stands; with proxies, all Services are programmed on both nodes."""
    options = Options(api_flags=("--admin", "--no-validation"), proxy=False)
    with Sandbox.up(name, topology, options) as sandbox:
        world = World(sandbox, tuple(flags), strict)
        with world.stack:
            world.begin()
            if proxies:
                world.start_proxies()
            yield world
