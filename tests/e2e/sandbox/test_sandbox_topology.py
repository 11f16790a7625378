# SPDX-License-Identifier: Apache-2.0
"""Every shape of the network carries every kind of packet, without any proxy."""

from __future__ import annotations

import errno
import json
import socket
from functools import partial
from typing import Iterator

import pytest

from kubeproxy_bpf.sandbox.cluster import Options, Sandbox
from kubeproxy_bpf.sandbox.layout import BACKEND_PORT, MTU, TOPOLOGIES
from kubeproxy_bpf.sandbox.probe import Target, ask

pytestmark = pytest.mark.root

NETWORK_ONLY = Options(api=False, proxy=False)
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DO = 10, 23, 2


@pytest.fixture(scope="module", params=TOPOLOGIES)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox.up(f"kpbt-sb-{request.param}", request.param, NETWORK_ONLY) as built:
        yield built


def _answers(sandbox: Sandbox, source: str) -> dict[Target, str]:
    """Answers to one place from every backend, in all protocols and families."""
    targets = [
        Target(protocol, address, BACKEND_PORT)
        for pod in sandbox.layout.pods
        if pod.serves
        for address in pod.addresses
        for protocol in ("TCP", "UDP")
    ]
    return sandbox.run_in(source, lambda: {each: ask(each, b"peer") for each in targets})


@pytest.mark.parametrize("source", ["shell-1", "shell-2", "web-1", "web-4"])
def test_pods_reach_all_pods_under_their_own_address(sandbox: Sandbox, source: str) -> None:
    """A pod reaches every pod on both nodes, in both families, and its address is preserved."""
    names = {a: pod.name for pod in sandbox.layout.pods for a in pod.addresses}
    own = sandbox.layout.addresses(source)
    for target, answer in _answers(sandbox, source).items():
        seen = own.v6 if ":" in target.address else own.v4
        # A pod that calls itself may be seen under its own address too: there is only one.
        assert answer.split()[:2] == [names[target.address], seen], (source, target)


@pytest.mark.parametrize("source", ["node1", "node2", "client"])
def test_nodes_and_client_reach_all_pods(sandbox: Sandbox, source: str) -> None:
    """Both nodes and the outside client reach every pod, in both families and protocols."""
    names = {a: pod.name for pod in sandbox.layout.pods for a in pod.addresses}
    for target, answer in _answers(sandbox, source).items():
        assert answer.split()[0] == names[target.address], (source, target)


@pytest.mark.parametrize("source", ["client", "shell-1", "node2"])
@pytest.mark.parametrize("node", ["node1", "node2"])
def test_nodes_answer_on_their_own_addresses(sandbox: Sandbox, source: str, node: str) -> None:
    """A node answers from everywhere: nothing listens there, so it refuses, and is not silent."""
    for address in sandbox.layout.addresses(node):
        answer = sandbox.run_in(source, partial(ask, Target("TCP", address, 9)))
        assert answer == "refused", (source, address)


def _exchange(address: str, size: int) -> int:
    """Echo one unfragmented datagram of a given IP size; returns the size that came back."""
    v6 = ":" in address
    overhead = 48 if v6 else 28
    family = socket.AF_INET6 if v6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if v6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
        sock.settimeout(2)
        sock.connect((address, BACKEND_PORT))
        sock.send(b"echo ".ljust(size - overhead, b"x"))
        return len(sock.recv(65536)) + overhead


def test_packets_of_full_mtu_cross_the_nodes(sandbox: Sandbox) -> None:
    """A packet as large as the pods' MTU crosses the nodes whole, in both directions."""
    mtu = MTU[sandbox.layout.topology]
    for address in sandbox.layout.addresses("web-2"):
        assert sandbox.run_in("shell-1", partial(_exchange, address, mtu)) == mtu
        with pytest.raises(OSError) as caught:
            sandbox.run_in("shell-1", partial(_exchange, address, mtu + 1))
        assert caught.value.errno == errno.EMSGSIZE


def _packets(sandbox: Sandbox, device: str) -> int:
    shown = sandbox.exec("node1", ["ip", "-s", "-j", "link", "show", "dev", device])
    return int(json.loads(shown.stdout)[0]["stats64"]["tx"]["packets"])


def test_only_the_overlay_carries_pod_traffic_of_vxlan(sandbox: Sandbox) -> None:
    """Between nodes, pods of the vxlan shape speak through the overlay device."""
    if sandbox.layout.topology != "vxlan":
        assert "does not exist" in sandbox.exec("node1", ["ip", "link", "show", "vxlan0"]).stderr
        return
    before = _packets(sandbox, "vxlan0")
    for address in sandbox.layout.addresses("web-2"):
        sandbox.run_in("shell-1", partial(_exchange, address, 1000))
    assert _packets(sandbox, "vxlan0") - before >= 2
