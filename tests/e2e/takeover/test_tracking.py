# SPDX-License-Identifier: Apache-2.0
"""A connection through a kube-proxy's rules goes on when they go and no other rule is there.

The kernel translates only while somebody has rules for it: without ours the connection would end.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import Iterator, NamedTuple

import pytest

from kubeproxy_bpf.sandbox import namespace
from kubeproxy_bpf.takeover import leftovers
from tests.e2e.takeover import kube_proxy
from tests.e2e.takeover.conftest import Node
from tests.e2e.takeover.kube_proxy import Served

pytestmark = pytest.mark.root

PORT, BACKEND_PORT = 80, 8080
_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
}


class Line(NamedTuple):
    """A client, a node that forwards, and a server behind it."""

    client: Node
    node: Node
    server: Node


@pytest.fixture
def line() -> Iterator[Line]:
    namespace.prepare()
    with ExitStack() as stack:
        places = []
        for place in Line._fields:
            name = f"kpbt-take-{os.getpid()}-{place}"
            namespace.create(name, lambda inode: None, _SYSCTLS)
            stack.callback(namespace.remove, name)
            places.append(Node(name))
        made = Line(*places)
        _wire(made.node, made.client, 1)
        _wire(made.node, made.server, 2)
        yield made


def _wire(node: Node, leaf: Node, number: int) -> None:
    peer = str(namespace.path_of(leaf.name))
    device = f"to{number}"
    node.run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", peer)
    for place, name, host in ((node, device, 1), (leaf, "eth0", 2)):
        place.run("ip", "addr", "add", f"10.1.{number}.{host}/24", "dev", name)
        place.run("ip", "addr", "add", f"fd00:1:{number}::{host}/64", "dev", name, "nodad")
        place.run("ip", "link", "set", name, "up")
    leaf.run("ip", "route", "add", "default", "via", f"10.1.{number}.1")
    leaf.run("ip", "-6", "route", "add", "default", "via", f"fd00:1:{number}::1")


@pytest.mark.parametrize("ipv6", [False, True], ids=["v4", "v6"])
@pytest.mark.parametrize("mode", ["nft", "legacy", "nftables"])
def test_it_goes_on_without_any_other_rule(line: Line, mode: str, ipv6: bool) -> None:
    """Both ways, by the address that was dialled, while new ones find nobody."""
    vip, backend, pods = (
        ("fd00:10:96::50", "fd00:1:2::2", "fd00:1:2::/64")
        if ipv6
        else ("10.96.0.80", "10.1.2.2", "10.1.2.0/24")
    )
    service = Served("default/one", vip, PORT, 31000, (), ((backend, BACKEND_PORT),))
    load(line.node, mode, service, pods, ipv6)
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    with ExitStack() as stack:
        listener = stack.enter_context(
            line.server.call(lambda: socket.create_server((backend, BACKEND_PORT), family=family))
        )
        client = stack.enter_context(
            line.client.call(lambda: socket.create_connection((vip, PORT), 3))
        )
        accepted = stack.enter_context(listener.accept()[0])
        assert accepted.getpeername()[0] == pods.split("/")[0].rstrip("0") + "1"
        assert line.node.call(lambda: leftovers.remove(leftovers.find())) == []
        assert line.node.call(leftovers.find).counts == {}
        accepted.settimeout(3)
        for sender, receiver in ((client, accepted), (accepted, client)) * 2:
            sender.sendall(b"still here")
            assert receiver.recv(64) == b"still here"
        with pytest.raises(OSError):
            line.client.call(lambda: socket.create_connection((vip, PORT), 0.3))


def load(node: Node, mode: str, service: Served, pods: str, ipv6: bool) -> None:
    if mode == "nftables":
        node.run("nft", "-f", "-", text=kube_proxy.nftables([service], pods, ipv6))
        return
    command = "ip6tables" if ipv6 else "iptables"
    text = kube_proxy.iptables([service], pods, ipv6)
    node.run(f"{command}-{mode}-restore", "--noflush", text=text)
