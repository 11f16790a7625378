# SPDX-License-Identifier: Apache-2.0
"""Node ports and host ports on local and loopback addresses, and bind() beside them."""

from __future__ import annotations

import errno
import socket

import pytest

from kubeproxy_bpf.plan.records import FrontendFlags, FrontendKind, VipFlags
from tests.bpf.world import TCP, UDP, World

from . import clients
from .clients import error_of
from .places import PORT, Places

pytestmark = pytest.mark.root

NODE, NODE6 = "10.99.0.1", "fd98::1"
LOCAL = {NODE: 0, NODE6: 0, "127.0.0.1": VipFlags.LOOPBACK, "::1": VipFlags.LOOPBACK}
B1, B6 = "10.99.1.1", "fd99::1"
NODE_PORT, HOST_PORT = 30080, 30081


def local_addresses(world: World, flags: int) -> None:
    for address, more in LOCAL.items():
        world.vip(address, flags | more)


def wildcard(world: World, port: int, kind: FrontendKind, *, ipv4: str, ipv6: str = "") -> None:
    """A node port or host port for all local addresses, TCP and UDP."""
    flags = FrontendFlags.EXTERNAL if kind == FrontendKind.NODE_PORT else 0
    world.node_port(port)
    for protocol in (TCP, UDP):
        for address, backend in (("0.0.0.0", ipv4), ("::", ipv6)):
            if backend:
                index = world.index()
                world.publish(index, [world.backend(backend, protocol=protocol)])
                world.frontend(address, port, protocol, index, kind, flags)


@pytest.fixture
def node_port(world: World) -> None:
    local_addresses(world, VipFlags.NODE_PORT)
    wildcard(world, NODE_PORT, FrontendKind.NODE_PORT, ipv4=B1, ipv6=B6)


FROM_HOST = [
    (NODE, B1),
    ("127.0.0.1", B1),
    ("127.9.8.7", B1),
    (NODE6, B6),
    ("::1", B6),
    (f"::ffff:{NODE}", B1),
    ("::ffff:127.0.0.1", B1),
]


@pytest.mark.usefixtures("node_port")
@pytest.mark.parametrize("dialled, backend", FROM_HOST)
def test_node_port_from_the_host(places: Places, dialled: str, backend: str) -> None:
    """A node port is served on each local address and on loopback, over TCP and UDP."""
    assert places.run(clients.tcp, dialled, NODE_PORT) == (backend, dialled)
    assert places.run(clients.udp, dialled, NODE_PORT) == (backend, dialled, dialled)
    assert places.run(clients.sendto, dialled, NODE_PORT) == (backend, (dialled, NODE_PORT))


@pytest.mark.usefixtures("node_port")
@pytest.mark.parametrize(
    "unspecified, backend", [("0.0.0.0", B1), ("::", B6), ("::ffff:0.0.0.0", B1)]
)
def test_the_unspecified_address_is_loopback(
    places: Places, unspecified: str, backend: str
) -> None:
    """Linux takes a connection to 0.0.0.0 or :: as one to loopback, and shows that: so do we."""
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1", "::ffff:0.0.0.0": "::ffff:127.0.0.1"}
    shown = loopback[unspecified]
    assert places.run(clients.tcp, unspecified, NODE_PORT) == (backend, shown)
    assert places.run(clients.udp, unspecified, NODE_PORT) == (backend, shown, shown)
    assert places.run(clients.sendto, unspecified, NODE_PORT) == (backend, (shown, NODE_PORT))


@pytest.mark.usefixtures("node_port")
@pytest.mark.parametrize("dialled, backend", [(NODE, B1), (NODE6, B6)])
def test_node_port_from_a_pod(places: Places, dialled: str, backend: str) -> None:
    """A pod reaches the node port on the node's address."""
    assert places.run(clients.tcp, dialled, NODE_PORT, netns=places.pod) == (backend, dialled)


@pytest.mark.usefixtures("node_port")
def test_loopback_of_a_pod_is_its_own(places: Places) -> None:
    """A pod's 127.0.0.1 has nothing to do with node ports."""
    refused = places.run(error_of, clients.tcp, "127.0.0.1", NODE_PORT, netns=places.pod)
    assert refused == "ECONNREFUSED"
    assert places.run(error_of, clients.tcp, "::1", NODE_PORT, netns=places.pod) == "ECONNREFUSED"


@pytest.mark.usefixtures("node_port")
def test_other_ports_of_local_addresses_are_left_alone(places: Places, world: World) -> None:
    """A port without a Service belongs to whoever listens, also one that the bitmap marks."""
    world.vip(B1, VipFlags.NODE_PORT)
    world.node_port(PORT)
    assert places.run(clients.tcp, B1, PORT) == (B1, B1)
    assert world.count("TRANSLATED") == 0


@pytest.mark.usefixtures("node_port")
def test_addresses_without_node_ports(places: Places, world: World) -> None:
    """An address that nodePortAddresses leaves out serves host ports, not node ports."""
    wildcard(world, HOST_PORT, FrontendKind.HOST_PORT, ipv4="10.99.1.2")
    world.vip(NODE, VipFlags.HOST_PORT)
    assert places.run(error_of, clients.tcp, NODE, NODE_PORT) == "ECONNREFUSED"
    assert places.run(clients.tcp, NODE, HOST_PORT) == ("10.99.1.2", NODE)
    world.vip(NODE, VipFlags.NODE_PORT)
    assert places.run(error_of, clients.tcp, NODE, HOST_PORT) == "ECONNREFUSED"


def test_host_port_with_host_ip(places: Places, world: World) -> None:
    """A host port with a hostIP is served there alone, whichever protocol it has."""
    local_addresses(world, VipFlags.HOST_PORT)
    for number, (address, protocol) in enumerate([("127.0.0.1", TCP), (NODE, TCP), (NODE, UDP)]):
        index = world.index()
        world.publish(index, [world.backend(f"10.99.1.{number + 1}", protocol=protocol)])
        world.frontend(address, 54323, protocol, index, FrontendKind.HOST_PORT)
    assert places.run(clients.tcp, "127.0.0.1", 54323, NODE) == ("10.99.1.1", "127.0.0.1")
    assert places.run(clients.tcp, NODE, 54323) == ("10.99.1.2", NODE)
    assert places.run(clients.udp, NODE, 54323)[0] == "10.99.1.3"
    assert places.run(error_of, clients.udp, "127.0.0.1", 54323) == "ECONNREFUSED"


# ---- bind ----


def bind(address: str, port: int, kind: int, ipv6_only: bool = False) -> None:
    with clients.opened(address, kind) as server:
        if ":" in address:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv6_only)
        server.bind((address, port))


BOUND = ["0.0.0.0", NODE, "127.0.0.1", "127.0.0.3", "::", NODE6, f"::ffff:{NODE}"]


@pytest.mark.usefixtures("node_port")
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("address", BOUND)
def test_a_node_port_cannot_be_bound(places: Places, world: World, address: str, kind: int) -> None:
    """In the host's namespace bind fails as if a program held the port."""
    with pytest.raises(OSError) as caught:
        places.run(bind, address, NODE_PORT, kind)
    assert caught.value.errno == errno.EADDRINUSE
    assert world.count("BIND_REFUSED") == 1


@pytest.mark.usefixtures("node_port")
def test_what_may_be_bound(places: Places, world: World) -> None:
    """Pods, other ports, other protocols, host ports, and addresses without node ports."""
    wildcard(world, HOST_PORT, FrontendKind.HOST_PORT, ipv4=B1)
    for port in (HOST_PORT, NODE_PORT + 2, 0):
        places.run(bind, "0.0.0.0", port, socket.SOCK_STREAM)
    places.run(bind, "10.99.1.4", NODE_PORT, socket.SOCK_STREAM)
    for address in ("0.0.0.0", "::", "127.0.0.1"):
        places.run(bind, address, NODE_PORT, socket.SOCK_STREAM, netns=places.pod)
    world.remove_frontend("0.0.0.0", NODE_PORT, UDP)
    places.run(bind, "0.0.0.0", NODE_PORT, socket.SOCK_DGRAM)


def test_a_socket_of_both_families_takes_the_ipv4_node_port(places: Places, world: World) -> None:
    """[::] collides with a node port of IPv4 alone, unless the socket is for IPv6 only."""
    local_addresses(world, VipFlags.NODE_PORT)
    wildcard(world, NODE_PORT, FrontendKind.NODE_PORT, ipv4=B1)
    assert places.run(error_of, bind, "::", NODE_PORT, socket.SOCK_STREAM) == "EADDRINUSE"
    assert places.run(error_of, bind, "::", NODE_PORT, socket.SOCK_STREAM, True) == ""
    assert places.run(error_of, bind, "::1", NODE_PORT, socket.SOCK_STREAM) == ""
