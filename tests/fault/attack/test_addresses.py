# SPDX-License-Identifier: Apache-2.0
"""Addresses that a Service must not have, and what it gets of the node's own."""

from __future__ import annotations

import socket
import subprocess
import sys
from functools import partial
from typing import Any, Iterator

import pytest

from tests.bpf.world import mapped
from tests.fault.load.stage import Manifest, Stage, service

pytestmark = pytest.mark.root

UNFIT = {
    "127.0.0.53": "loopback",
    "127.255.255.254": "loopback",
    "0.0.0.0": "unspecified",
    "224.0.0.251": "multicast",
    "239.255.255.250": "multicast",
    "255.255.255.255": "broadcast",
    "169.254.169.254": "link-local",
    "::1": "loopback",
    "::": "unspecified",
    "ff02::fb": "multicast",
    "fe80::53": "link-local",
}
KUBELET, METRICS, HEALTH, FREE = 10250, 10249, 10256, 8088
LATER = "192.0.2.200"
_HOST_SERVER = """
import socket, sys, threading
def serve(port):
    listener = socket.create_server(("", port))
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"the host's own\\n")
for port in sys.argv[1:]:
    threading.Thread(target=serve, args=(int(port),)).start()
"""


def claiming(name: str, addresses: list[str], balancer: bool, ports: tuple[int, ...]) -> Manifest:
    """A Service that claims these addresses, as external IPs or by its load balancer."""
    listed = [
        {"name": f"p{port}", "protocol": "TCP", "port": port, "targetPort": 8080} for port in ports
    ]
    dual = {"ipFamilyPolicy": "RequireDualStack", "ports": listed}
    if not balancer:
        return service(name, externalIPs=addresses, **dual)
    made = service(name, type="LoadBalancer", **dual)
    return made | {"status": {"loadBalancer": {"ingress": [{"ip": ip} for ip in addresses]}}}


def frontends_at(stage: Stage, address: str) -> list[bytes]:
    keys = stage.maps(names=("kpb_frontends",))["kpb_frontends"]
    return [key for key in keys if key[:16] == mapped(address)]


@pytest.mark.parametrize("balancer", (False, True), ids=("external", "balancer"))
def test_what_is_no_address_of_a_service(stage: Stage, balancer: bool) -> None:
    """Refused, one line each that names the Service, the field and why; the rest is served."""
    fit = "198.51.100.78" if balancer else "198.51.100.77"
    wildcards = {mapped("0.0.0.0"), mapped("::")}  # node ports stand there
    # In two parts: of very many problems of one Service not all are listed.
    for part in (0, 1):
        chosen = dict(list(UNFIT.items())[part::2])
        name = f"unfit-{fit[-1]}-{part}"
        made = claiming(name, [*chosen, fit], balancer, (80,))
        stage.put(made)
        stage.until(lambda: frontends_at(stage, fit))
        for address, why in chosen.items():
            assert why in _line_of(stage, name, f"'{address}' "), address
            assert mapped(address) in wildcards or not frontends_at(stage, address)
        stage.delete(made)
        stage.until(lambda: not frontends_at(stage, fit))


def _line_of(stage: Stage, name: str, text: str) -> str:
    lines = [line for line in stage.log().splitlines() if name in line and text in line]
    assert lines, f"nothing is said about {text}"
    return lines[0]


@pytest.fixture
def host_servers(stage: Stage) -> Iterator[None]:
    """What listens on the node itself: a kubelet, and somebody at a port that is free to take."""
    argv = [sys.executable, "-I", "-S", "-c", _HOST_SERVER, str(KUBELET), str(FREE)]
    process = subprocess.Popen(stage.sandbox.place("node1").launch(argv))
    node = stage.sandbox.layout.addresses("node1").v4
    try:
        stage.until(lambda: hear(stage, node, KUBELET) == "the host's own")
        yield
    finally:
        process.kill()
        process.wait()


def hear(stage: Stage, address: str, port: int) -> str:
    """What the outside client hears from there."""
    return stage.sandbox.run_in("client", partial(_hear, (address, port)))


def _hear(target: tuple[str, int]) -> str:
    try:
        with socket.create_connection(target, 2) as connection:
            connection.sendall(b"name\r\n\r\n")
            return connection.recv(100).decode().split("\n")[0].strip()
    except OSError as error:
        return type(error).__name__


def test_the_nodes_own_address(stage: Stage, host_servers: None) -> None:
    """Served for the Service's port, as k3s needs; never the kubelet's port nor our own."""
    node = stage.sandbox.layout.addresses("node1").v4
    assert hear(stage, node, FREE) == "the host's own"
    made = claiming("greedy", [node, LATER], False, (FREE, KUBELET, METRICS, HEALTH))
    stage.put(made)
    try:
        stage.until(lambda: hear(stage, node, FREE).startswith("web-"))
        assert hear(stage, node, KUBELET) == "the host's own"
        assert hear(stage, node, HEALTH).startswith("HTTP/1.")
        for port in (KUBELET, METRICS, HEALTH):
            assert "own" in _line_of(stage, "greedy", f"needs port {port}/TCP")
        assert len(frontends_at(stage, node)) == 1
        _later(stage)
    finally:
        stage.delete(made)
    stage.until(lambda: hear(stage, node, FREE) == "the host's own")


def _later(stage: Stage) -> None:
    """An address that becomes the node's is no way to its kubelet either, from then on."""
    assert len(frontends_at(stage, LATER)) == 4
    added: Any = stage.sandbox.exec("node1", ["ip", "addr", "add", f"{LATER}/32", "dev", "lo"])
    assert added.returncode == 0, added.stderr
    try:
        stage.until(lambda: len(frontends_at(stage, LATER)) == 1)
    finally:
        stage.sandbox.exec("node1", ["ip", "addr", "del", f"{LATER}/32", "dev", "lo"])
