# SPDX-License-Identifier: Apache-2.0
"""A narrow way somewhere between client and backend: ICMP errors find who must send less."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Iterator

import pytest

from kubeproxy_bpf.sandbox import namespace
from tests.e2e.packets import bulk
from tests.e2e.packets.asking import Target, made
from tests.e2e.packets.netfilter import inside
from tests.e2e.packets.table import Place, Via
from tests.e2e.packets.world import World

pytestmark = pytest.mark.root

MTU = 1300
SIZE = 200_000
DIGEST = bulk.digest(SIZE)
_DISCOVER = {
    socket.AF_INET: (socket.IPPROTO_IP, 10),  # IP_MTU_DISCOVER
    socket.AF_INET6: (socket.IPPROTO_IPV6, 23),  # IPV6_MTU_DISCOVER
}
_DO = 2
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
VIAS = pytest.mark.parametrize(
    "via",
    [Via.NODE1, Via.LOAD_BALANCER, Via.EXTERNAL_IP, Via.CLUSTER_IP],
    ids=lambda via: str(via.value),
)
SERVICES = pytest.mark.parametrize("service", ["itself", "remote"])


@contextmanager
def narrow(world: World, place: str, destination: str) -> Iterator[None]:
    """Let a route of a place carry no more than ``MTU``, and forget what anybody learnt of it."""
    ip = partial(world.ip, place, "-6" if ":" in destination else "-4")
    way = ip("-o", "route", "get", destination).split()
    via = way[way.index("via") : way.index("via") + 2] if "via" in way else []
    own = ip("route", "show", "exact", destination).split()
    device = way[way.index("dev") + 1]
    ip("route", "replace", destination, *via, "dev", device, "mtu", str(MTU))
    try:
        yield
    finally:
        ip("route", "del", destination)
        if own:
            ip("route", "add", *own)
        forget(world, ":" in destination)


def forget(world: World, ipv6: bool) -> None:
    """Let all places forget what they learnt of ways in one family."""
    for place in world.layout.places:
        if ipv6:
            inside(world.layout, place, ["ip", "-6", "route", "flush", "cache"])
        else:
            namespace.call(world.layout.netns(place), _flush_ipv4)


def _flush_ipv4() -> None:
    Path("/proc/sys/net/ipv4/route/flush").write_text("-1")


@contextmanager
def narrow_to_backends(world: World, service: str, family: int) -> Iterator[None]:
    """Let the last step to each backend of a Service be narrow."""
    pods = {pod.name: pod for pod in world.layout.pods}
    with ExitStack() as stack:
        for name in {"itself": ("web-1",), "remote": ("web-2", "web-4")}[service]:
            step = narrow(world, pods[name].node, pods[name].addresses[family])
            stack.enter_context(step)
        yield


def transfers(world: World, service: str, via: Via, family: int) -> None:
    target = (world.address(service, via, family), world.bulk_port(service, via))
    for transfer in (bulk.take, bulk.give):
        assert world.run(Place.CLIENT, partial(transfer, target, SIZE)) == DIGEST


@SERVICES
@VIAS
@FAMILIES
def test_client_learns_of_a_narrow_way_to_the_backend(
    family: int, via: Via, service: str, world: World
) -> None:
    """TCP passes, and the client knows the size of the way to the address that it dialled."""
    with narrow_to_backends(world, service, family):
        transfers(world, service, via, family)
        address = world.address(service, via, family)
        assert f"mtu {MTU}" in world.ip("client", "route", "get", address)


@SERVICES
@VIAS
@FAMILIES
@pytest.mark.parametrize("where", ["net", "node1"])
def test_backend_learns_of_a_narrow_way_to_the_client(
    where: str, family: int, via: Via, service: str, world: World
) -> None:
    """TCP passes where the answers are too large for what lies between the node and the client."""
    with narrow(world, where, world.layout.client[family]):
        transfers(world, service, via, family)


@SERVICES
@VIAS
@FAMILIES
def test_datagrams_that_must_not_be_cut_are_refused(
    family: int, via: Via, service: str, world: World
) -> None:
    """A client that wants its datagrams whole is told EMSGSIZE, and the size that fits."""
    target = world.target("UDP", service, via, family)
    with narrow_to_backends(world, service, family):
        assert world.run(Place.CLIENT, partial(_whole, target)) == (errno.EMSGSIZE, MTU)


def _whole(target: Target) -> tuple[int, int]:
    """The errno of datagrams of 1400 bytes, and the size that the kernel then knows."""
    with made(target, timeout_s=0.2) as sock:
        level, option = _DISCOVER[sock.family]
        sock.setsockopt(level, option, _DO)
        sock.connect((target.address, target.port))
        for _ in range(10):
            try:
                sock.send(b"echo ".ljust(1400, b"x"))
                sock.recv(65536)
            except TimeoutError:
                continue
            except OSError as error:
                mtu = {socket.AF_INET: 14, socket.AF_INET6: 24}[sock.family]
                return error.errno or 0, sock.getsockopt(level, mtu)
    return 0, 0
