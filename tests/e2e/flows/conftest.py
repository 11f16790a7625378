# SPDX-License-Identifier: Apache-2.0
"""A whole sandbox, both proxies running, and Services made for one test."""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import Any, Callable, Iterable, Iterator

import pytest

from kubeproxy_bpf.errors import ApiError
from kubeproxy_bpf.sandbox.cluster import Options, Sandbox
from kubeproxy_bpf.sandbox.inventory import Manifest
from kubeproxy_bpf.sandbox.layout import BACKEND_PORT, Pod
from tests.e2e.flows.places import socket_in
from tests.e2e.flows.ways import TIMEOUT_S, Seen, Way, dial, open_socket

TCP, UDP = Way("TCP"), Way("UDP")
PORT = 80
TIMES = 40
_DEADLINE_S = 60
_NOT_FOUND = 404
_MARKER_PORT = 1000
_MOVES = count()
_NODE_PORTS = count(31080)


class Cluster:
    """What a test does to the sandbox; leaving ``stack`` takes it back."""

    def __init__(self, sandbox: Sandbox, node_port: int) -> None:
        self.sandbox = sandbox
        self.layout = sandbox.layout
        self.stack = ExitStack()
        self.node_port = node_port
        """No other test uses it."""

    def put(self, manifest: Manifest) -> Manifest:
        """Apply an object until the end of the test."""
        self.stack.callback(self.remove, manifest)
        return self.sandbox.api.apply(manifest)

    def remove(self, manifest: Manifest) -> None:
        try:
            self.sandbox.api.delete(manifest)
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise

    def service(
        self, name: str, pods: Iterable[str], status: Manifest | None = None, **spec: Any
    ) -> tuple[str, str]:
        """Have a dual-stack Service before some of the pods; returns its cluster IPs."""
        manifest = self.manifest(name, **spec)
        if status:
            manifest["status"] = status
        first, second = self.put(manifest)["spec"]["clusterIPs"]
        self.endpoints(name, pods)
        return first, second

    def manifest(self, name: str, **spec: Any) -> Manifest:
        """A Service; where its type has node ports, TCP and UDP share the number."""
        manifest = service_manifest(name, PORT, **spec)
        if spec.get("type", "ClusterIP") != "ClusterIP":
            for port in manifest["spec"]["ports"]:
                port["nodePort"] = self.node_port
        return manifest

    def endpoints(self, name: str, pods: Iterable[str]) -> None:
        """Let exactly these pods be the Service's endpoints, and wait until it is so."""
        chosen = [pod for pod in self.layout.pods if pod.name in set(pods)]
        for family in (0, 1):
            self.put(slice_manifest(name, family, chosen))
        self.settle()

    def settle(self) -> None:
        """Wait until both proxies follow all that was told to the API server so far.

        Each call moves a Service of its own to another port and another pod. Both streams of events
        are in order, so whoever serves the new port to the new pod knows what was before.
        """
        number = next(_MOVES)
        pods = [pod for pod in self.layout.pods if pod.serves]
        pod = pods[number % len(pods)]
        marker = self.sandbox.api.apply(service_manifest("marker", _MARKER_PORT + number))
        for family in (0, 1):
            self.sandbox.api.apply(slice_manifest("marker", family, [pod]))
        for place in ("shell-1", "shell-2"):
            for vip in marker["spec"]["clusterIPs"]:
                self.until({pod.name}, place, TCP, vip, _MARKER_PORT + number)

    def dial(self, place: str, way: Way, address: str, port: int = PORT) -> Seen:
        """One exchange from a place."""
        return self.sandbox.run_in(place, partial(dial, way, address, port))

    def answers(self, place: str, way: Way, address: str, port: int = PORT) -> set[str]:
        """Who answers over a number of new sockets; or the errors."""

        def connect() -> set[str]:
            return {dial(way, address, port).answer for _ in range(TIMES)}

        return self.sandbox.run_in(place, connect)

    def until(
        self, expected: set[str], place: str, way: Way, address: str, port: int = PORT
    ) -> None:
        """Wait until exactly these answer."""
        wait(lambda: self.answers(place, way, address, port), expected)

    def open(self, place: str, way: Way, address: str) -> socket.socket:
        """A socket of a place, closed at the end of the test."""
        made = socket_in(self.sandbox, place, partial(open_socket, way, address))
        made.settimeout(TIMEOUT_S)
        return self.stack.enter_context(made)


def wait(look: Callable[[], object], expected: object) -> None:
    """Look until what is seen is what is expected."""
    deadline = time.monotonic() + _DEADLINE_S
    while (seen := look()) != expected:
        assert time.monotonic() < deadline, f"{seen} instead of {expected}"
        time.sleep(0.05)


def service_manifest(name: str, port: int, **spec: Any) -> Manifest:
    """A Service without selector, TCP and UDP on one port."""
    ports = [
        {"name": protocol.lower(), "protocol": protocol, "port": port, "targetPort": BACKEND_PORT}
        for protocol in ("TCP", "UDP")
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ipFamilyPolicy": "RequireDualStack", "ports": ports, **spec},
    }


def slice_manifest(name: str, family: int, pods: Iterable[Pod]) -> Manifest:
    """The Service's only EndpointSlice of a family."""
    labels = {"kubernetes.io/service-name": name}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-{family}", "namespace": "default", "labels": labels},
        "addressType": ("IPv4", "IPv6")[family],
        "ports": [
            {"name": protocol.lower(), "protocol": protocol, "port": BACKEND_PORT}
            for protocol in ("TCP", "UDP")
        ],
        "endpoints": [{"addresses": [pod.addresses[family]], "nodeName": pod.node} for pod in pods],
    }


@pytest.fixture(scope="module")
def whole_sandbox() -> Iterator[Sandbox]:
    """A sandbox as users have it."""
    options = Options(api_flags=("--admin", "--no-validation"))
    with Sandbox.up(f"kpbt-flow-{os.getpid()}", "routed", options) as sandbox:
        yield sandbox


@pytest.fixture
def cluster(whole_sandbox: Sandbox) -> Iterator[Cluster]:
    """The sandbox, without any Service of a test before and after it."""
    made = Cluster(whole_sandbox, next(_NODE_PORTS))
    with made.stack:
        yield made
