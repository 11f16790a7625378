# SPDX-License-Identifier: Apache-2.0
"""What real clients make of the answers: behind a device, and on the host itself."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from typing import Callable, Iterator

import pytest

from kubeproxy_bpf.libbpf import AttachType

from .conftest import VIPS, Answers
from .places import LIMIT_S, Namespace, Wire

pytestmark = [
    pytest.mark.root,
    pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6]),
]

PORT = 80
CLIENT, NODE = ("10.9.0.2", "fd09::2"), ("10.9.0.1", "fd09::1")
CLIENT_MAC, NODE_MAC = "02:00:00:00:09:02", "02:00:00:00:09:01"
GATEWAY, GATEWAY_MAC = ("10.9.0.254", "fd09::fe"), "02:00:00:00:09:fe"


def addressed(namespace: Namespace, device: str, addresses: tuple[str, str], via: str) -> None:
    """Give a device addresses, and to everything a route by it, to a neighbour with that MAC."""
    lines = [f"link set {device} up"]
    for address, length, gateway in zip(addresses, (24, 64), GATEWAY):
        lines.append(f"address add {address}/{length} dev {device}{' nodad' * (length == 64)}")
        lines.append(f"neighbour add {gateway} lladdr {via} dev {device}")
        lines.append(f"route add default via {gateway} dev {device}")
    namespace.ip(*lines)


@pytest.fixture(scope="module")
def far(answers: Answers) -> Iterator[Namespace]:
    """A client whose packets come to a node by a device."""
    with Namespace() as client, Namespace() as node, ExitStack() as stack:
        client.ip(f"link add v0 address {CLIENT_MAC} type veth peer name v1 address {NODE_MAC}")
        client.move("v1", node)
        node.ip("link set v1 up")
        addressed(client, "v0", CLIENT, NODE_MAC)
        program = answers.object.programs["t_ingress"]
        stack.enter_context(node.attach(program, "v1", AttachType.TCX_INGRESS))
        yield client


def strict() -> Namespace:
    """A node that judges the sources of packets by its routes."""
    node = Namespace()
    for device in ("all", "default", "lo"):
        node.sysctl(f"net/ipv4/conf/{device}/rp_filter", 1)
    return node


@pytest.fixture(scope="module")
def host(answers: Answers) -> Iterator[Namespace]:
    """A client on the node itself, whose packets are answered where they would leave."""
    with strict() as node, ExitStack() as stack:
        node.ip(f"link add v0 address {CLIENT_MAC} type veth peer name v1", "link set v1 up")
        addressed(node, "v0", CLIENT, GATEWAY_MAC)
        program = answers.object.programs["t_egress"]
        stack.enter_context(node.attach(program, "v0", AttachType.TCX_EGRESS))
        yield node


@pytest.fixture(scope="module")
def tunnel(answers: Answers) -> Iterator[Namespace]:
    """The same, and they would leave by a device without Ethernet header."""
    with strict() as node, Wire(node, False) as wire:
        node.sysctl(f"net/ipv6/conf/{wire.name}/disable_ipv6", 0)
        for address, length in zip(CLIENT, (24, 64)):
            node.ip(f"address add {address}/{length} dev {wire.name}{' nodad' * (length == 64)}")
        node.ip(*(f"route add {everything} dev {wire.name}" for everything in ("0/0", "::/0")))
        program = answers.object.programs["t_egress_l3"]
        with node.attach(program, wire.name, AttachType.TCX_EGRESS):
            yield node


@pytest.fixture(scope="module")
def loopback(answers: Answers) -> Iterator[Namespace]:
    """A client on the node itself that dials an address of the node."""
    with strict() as node, ExitStack() as stack:
        node.ip(*(f"address add {address} dev lo" for address in (*VIPS, *CLIENT)))
        program = answers.object.programs["t_egress"]
        stack.enter_context(node.attach(program, "lo", AttachType.TCX_INGRESS))
        yield node


@pytest.fixture(params=["far", "host", "tunnel", "loopback"])
def dial(request: pytest.FixtureRequest) -> Callable[[int, int], socket.socket]:
    """Makes sockets at the place of the client."""
    place: Namespace = request.getfixturevalue(request.param)

    def make(family: int, kind: int) -> socket.socket:
        with place.inside():
            made = socket.socket(family, kind)
        made.settimeout(LIMIT_S)
        made.bind((CLIENT[family == socket.AF_INET6], 0))
        return made

    return make


def vip(family: int) -> tuple[str, int]:
    return VIPS[family == socket.AF_INET6], PORT


def test_connect_is_refused(dial: Callable[[int, int], socket.socket], family: int) -> None:
    """TCP learns at once that nobody serves the port."""
    with dial(family, socket.SOCK_STREAM) as client:
        assert errno.ECONNREFUSED == client.connect_ex(vip(family))


def test_a_connected_datagram_socket_is_told(
    dial: Callable[[int, int], socket.socket], family: int
) -> None:
    """UDP learns it from the answer to its first datagram."""
    with dial(family, socket.SOCK_DGRAM) as client:
        client.connect(vip(family))
        client.send(b"anybody?")

        with pytest.raises(ConnectionRefusedError):
            client.recv(1)


def test_a_sender_is_told_what_fits(
    dial: Callable[[int, int], socket.socket], answers: Answers, family: int
) -> None:
    """The kernel takes the error for one about this socket's own way, and lowers its MTU."""
    level, discover, do, mtu = {
        socket.AF_INET: (socket.IPPROTO_IP, 10, 2, 14),
        socket.AF_INET6: (socket.IPPROTO_IPV6, 23, 2, 24),
    }[socket.AddressFamily(family)]
    answers.order(mtu=1350)
    try:
        with dial(family, socket.SOCK_DGRAM) as client:
            client.setsockopt(level, discover, do)
            client.connect(vip(family))
            client.send(bytes(1400))

            with pytest.raises(OSError) as caught:
                client.recv(1)
            assert errno.EMSGSIZE == caught.value.errno
            assert 1350 == client.getsockopt(level, mtu)
    finally:
        answers.order()
