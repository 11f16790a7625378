# SPDX-License-Identifier: Apache-2.0
"""Direct server return: a remote backend sees the client, and its node answers the client itself.

Together with the consistent choice, which DSR stands on: all nodes choose the same backend for the
same client, so a connection may come by another node in the middle of its life.

The flow table may even be lost: nothing of a flow is only in it, and the client's next packet makes
it anew. That is not so of ports given to masqueraded flows, and an answer that leaves before the
client's next packet shows the backend's own address: so a restart keeps the table
(``test_survival``).
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from functools import partial
from typing import Iterator

import pytest

from kubeproxy_bpf.libbpf import BpfMap
from tests.e2e.packets import bulk
from tests.e2e.packets.asking import TIMEOUT_S, Told, ask, told_by
from tests.e2e.packets.held import connections, go_on
from tests.e2e.packets.judge import judge
from tests.e2e.packets.objects import addresses_of
from tests.e2e.packets.table import Place, Row, Via
from tests.e2e.packets.test_path_mtu import MTU, narrow, narrow_to_backends, transfers
from tests.e2e.packets.world import PRESERVE, World, standing

pytestmark = [pytest.mark.root, pytest.mark.slow]

REMOTE = ("web-2", "web-4")
SIZE = 20_000_000
DIGEST = bulk.digest(SIZE)
VIRTUAL = (Via.LOAD_BALANCER, Via.EXTERNAL_IP)


@pytest.fixture(scope="module", params=["routed", "vxlan"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Nodes are strict where the client's packets come by the device to which its route leads.

    That is not so behind an overlay: there ``rp_filter`` 1 drops what the first node passes on.
    """
    topology = request.param
    name = f"kpbt-p{os.getpid()}-dsr"
    flags = [PRESERVE, "--bpf-forwarding=dsr", "--bpf-algorithm=maglev"]
    with standing(name, topology, flags, strict=topology == "routed") as made:
        yield made


@pytest.mark.parametrize("via", VIRTUAL, ids=lambda via: str(via.value))
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_remote_backends_see_the_client(family: int, protocol: str, via: Via, world: World) -> None:
    """All of them answer, from the address that was dialled, and none sees a node."""
    target = world.target(protocol, "remote", via, family)._replace(connected=protocol == "TCP")
    told = world.run(Place.CLIENT, partial(told_by, [target], 60, TIMEOUT_S, REMOTE))[target]
    assert told == {Told(name, world.layout.client[family]) for name in REMOTE}


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_answers_do_not_come_by_the_first_node(family: int, world: World) -> None:
    """Much data reaches the client although the node that was asked sent next to nothing."""
    target = (
        world.address("remote", Via.LOAD_BALANCER, family),
        world.bulk_port("remote", VIRTUAL[0]),
    )
    before = _sent(world, "node1")
    assert world.run(Place.CLIENT, partial(bulk.take, target, SIZE)) == DIGEST
    assert _sent(world, "node1") - before < SIZE // 4
    assert world.run(Place.CLIENT, partial(bulk.give, target, SIZE)) == DIGEST


def _sent(world: World, node: str) -> int:
    shown = json.loads(world.ip(node, "-s", "-j", "link", "show", "dev", "eth0"))
    return int(shown[0]["stats64"]["tx"]["bytes"])


def test_node_ports_are_masqueraded_as_ever(world: World) -> None:
    """No other node could answer with this node's address."""
    judge(Row("E4", Place.CLIENT, "remote", Via.NODE1, REMOTE), world)


NARROW = pytest.mark.parametrize("where", ["way to the backend", "way to the client"])


@NARROW
@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_both_ends_learn_of_a_narrow_way(family: int, where: str, world: World) -> None:
    """Who sends too much is told, although packets and answers take different ways."""
    address = world.address("remote", Via.LOAD_BALANCER, family)
    if where == "way to the backend":
        with narrow_to_backends(world, "remote", family):
            transfers(world, "remote", Via.LOAD_BALANCER, family)
            assert f"mtu {MTU}" in world.ip("client", "route", "get", address)
        return
    with narrow(world, "net", world.layout.client[family]):
        transfers(world, "remote", Via.LOAD_BALANCER, family)


@contextmanager
def by_other_node(world: World, service: str) -> Iterator[None]:
    """Let the site's router send the Service's addresses to node 2 instead of node 1."""
    given = addresses_of(service)
    addresses = (*given.external, *given.balancer)
    for address in addresses:
        gateway = world.layout.addresses("node2")[":" in address]
        world.ip("net", "route", "add", address, "via", gateway)
    try:
        yield
    finally:
        for address in addresses:
            world.ip("net", "route", "del", address)


def test_connections_move_to_another_node_and_back(world: World) -> None:
    """The node that never saw their beginning sends them to the same backends."""
    with connections(world, "TCP", "all", VIRTUAL, each=12) as opened:
        with by_other_node(world, "all"):
            go_on(opened)
        go_on(opened)


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_both_nodes_choose_alike(family: int, protocol: str, world: World) -> None:
    """The same client, by its port, meets the same backend whichever node is asked."""
    chosen = _chosen(world, protocol, family, 20000 + family)
    with by_other_node(world, "all"):
        assert _chosen(world, protocol, family, 20000 + family) == chosen
    assert set(chosen) == {"web-1", "web-2", "web-3", "web-4"}


def _chosen(world: World, protocol: str, family: int, first: int) -> list[str]:
    target = world.target(protocol, "all", Via.LOAD_BALANCER, family)
    ports = range(first, first + 40 * 7, 7)
    return world.run(Place.CLIENT, lambda: [ask(target, source_port=port).name for port in ports])


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_connections_go_on_without_their_flows(protocol: str, world: World) -> None:
    """Time and again both tables are emptied; each connection meets the backend that it had."""
    with connections(world, protocol, "all", VIRTUAL, each=12) as opened:
        assert {each.told.name for each in opened} == {"web-1", "web-2", "web-3", "web-4"}
        for _ in range(10):
            assert min(_wipe(world, node) for node in world.layout.node_names) > 0
            go_on(opened)


def _wipe(world: World, node: str) -> int:
    """Remove all flows of a node; tells how many there were."""
    (pin,) = world.sandbox.pin_path(node).glob("*/kpb_flows")
    with BpfMap.open_pinned(pin) as flows:
        size = flows.key_size
        return sum(flows.delete_batch(keys[: n * size], n) for keys, _, n in flows.batches())
