# SPDX-License-Identifier: Apache-2.0
"""A whole sandbox, both proxies running, and Services made for one test."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from functools import partial
from typing import Any, Callable, Iterable, Iterator

import pytest

from kubeproxy_bpf.errors import ApiError
from kubeproxy_bpf.sandbox.cluster import Options, Sandbox
from kubeproxy_bpf.sandbox.inventory import Manifest
from kubeproxy_bpf.sandbox.layout import BACKEND_PORT
from tests.e2e.flows.places import socket_in
from tests.e2e.flows.ways import TIMEOUT_S, Seen, Way, dial, open_socket

TCP, UDP = Way("TCP"), Way("UDP")
PORT, NODE_PORT = 80, 31080
TIMES = 40
_DEADLINE_S = 20
_NOT_FOUND = 404


class Cluster:
    """What a test does to the sandbox; ``close`` takes it back."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.layout = sandbox.layout
        self.stack = ExitStack()

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
        """Make a dual-stack Service before some of the pods; returns its cluster IPs."""
        manifest = service_manifest(name, **spec)
        if status:
            manifest["status"] = status
        stored = self.put(manifest)["spec"]
        self.endpoints(name, pods)
        first, second = stored["clusterIPs"]
        return first, second

    def endpoints(self, name: str, pods: Iterable[str]) -> None:
        """Let exactly these pods be the Service's endpoints."""
        chosen = [pod for pod in self.layout.pods if pod.name in set(pods)]
        for family in (0, 1):
            self.put(
                {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {
                        "name": f"{name}-{family}",
                        "namespace": "default",
                        "labels": {"kubernetes.io/service-name": name},
                    },
                    "addressType": ("IPv4", "IPv6")[family],
                    "ports": [
                        {"name": protocol.lower(), "protocol": protocol, "port": BACKEND_PORT}
                        for protocol in ("TCP", "UDP")
                    ],
                    "endpoints": [
                        {"addresses": [pod.addresses[family]], "nodeName": pod.node}
                        for pod in chosen
                    ],
                }
            )

    def dial(self, place: str, way: Way, address: str, port: int = PORT, source: str = "") -> Seen:
        """One exchange from a place."""
        return self.sandbox.run_in(place, partial(dial, way, address, port, source))

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


def service_manifest(name: str, **spec: Any) -> Manifest:
    """TCP and UDP on one port; where the type has node ports, these are one number too."""
    ports = [
        {"name": p.lower(), "protocol": p, "port": PORT, "targetPort": BACKEND_PORT}
        for p in ("TCP", "UDP")
    ]
    if spec.get("type", "ClusterIP") != "ClusterIP":
        ports = [{**port, "nodePort": NODE_PORT} for port in ports]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ipFamilyPolicy": "RequireDualStack", "ports": ports, **spec},
    }


@pytest.fixture(scope="module")
def whole_sandbox() -> Iterator[Sandbox]:
    """A sandbox as users have it."""
    options = Options(api_flags=("--admin", "--no-validation"))
    with Sandbox.up("kpbt-flow", "routed", options) as sandbox:
        yield sandbox


@pytest.fixture
def cluster(whole_sandbox: Sandbox) -> Iterator[Cluster]:
    """The sandbox, without any Service before and after the test."""
    made = Cluster(whole_sandbox)
    with made.stack:
        yield made
