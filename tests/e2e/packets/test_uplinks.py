# SPDX-License-Identifier: Apache-2.0
"""A node with two uplinks, and a pod whose packets a policy rule sends out of the second one.

Clients get their answers from where they sent their questions, whatever the routes prefer: those of
the node, which lead to the client by the first uplink, and those of the pod, by the second.
"""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Iterator

import pytest

from kubeproxy_bpf.sandbox.layout import BACKEND_PORT
from tests.e2e.packets.asking import TIMEOUT_S, Target, Told, told_by
from tests.e2e.packets.objects import addresses_of
from tests.e2e.packets.table import Place
from tests.e2e.packets.world import MASQUERADE, PRESERVE, World, standing

pytestmark = [pytest.mark.root, pytest.mark.slow]

TIMES = 20
FIRST, SECOND = "eth0", "eth1"
_SUBNET = 2
_TABLE = "100"
BACKENDS = {"itself": {"web-1"}, "remote": {"web-2", "web-4"}, "hosts": {"node1", "node2"}}


@pytest.fixture(scope="module", params=[PRESERVE, MASQUERADE], ids=lambda flag: flag[19:])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    name = f"kpbt-p{os.getpid()}-two"
    with standing(name, "routed", [request.param], proxies=False) as made:
        _add_uplink(made)
        made.start_proxies()
        yield made


def _add_uplink(world: World) -> None:
    """A second leg of node 1 in the wire; web-1 is to use it, as pods of a second interface do."""
    gateway, own = (world.layout._address(_SUBNET, host) for host in (1, 11))
    peer = f"/run/netns/{world.layout.netns('node1')}"
    world.ip("net", "link", "add", "second", "type", "veth", "peer", SECOND, "netns", peer)
    for place, device, addresses in (("net", "second", gateway), ("node1", SECOND, own)):
        for address, length in zip(addresses, (24, 64)):
            world.ip(place, "addr", "add", f"{address}/{length}", "dev", device, "nodad")
        world.ip(place, "link", "set", device, "up")
    for family, via, pods, pod in zip(
        ("-4", "-6"), gateway, world.layout.pod_network, world.layout.addresses("web-1")
    ):
        world.ip("node1", family, "route", "add", "default", "via", via, "table", _TABLE)
        world.ip("node1", family, "rule", "add", "from", pod, "lookup", _TABLE, "priority", "200")
        world.ip("node1", family, "rule", "add", "to", pods, "lookup", "main", "priority", "100")


def _target(world: World, protocol: str, service: str, uplink: str, family: int) -> Target:
    own = world.layout.addresses("node1")
    address = (world.layout._address(_SUBNET, 11) if uplink == SECOND else own)[family]
    return Target(protocol, address, addresses_of(service).node_port, protocol == "TCP")


def _sent(world: World, device: str) -> int:
    shown = json.loads(world.ip("node1", "-s", "-j", "link", "show", "dev", device))
    return int(shown[0]["stats64"]["tx"]["packets"])


@pytest.mark.parametrize("uplink", [FIRST, SECOND])
@pytest.mark.parametrize("service", BACKENDS)
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_answers_come_by_the_uplink_that_was_asked(
    family: int, protocol: str, service: str, uplink: str, world: World
) -> None:
    """All backends answer by either uplink, and what goes to the client leaves by that one."""
    target = _target(world, protocol, service, uplink, family)
    other = SECOND if uplink == FIRST else FIRST
    before = _sent(world, other)
    told = world.run(Place.CLIENT, partial(told_by, [target], TIMES, TIMEOUT_S))[target]
    assert {each.name for each in told} == BACKENDS[service]
    if service == "itself":
        # What little is sent meanwhile is the proxy's own and that of neighbour discovery.
        assert _sent(world, other) - before < TIMES
        assert (Told("web-1", world.layout.client[family]) in told) == world.preserving


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_the_pod_itself_prefers_the_second_uplink(family: int, world: World) -> None:
    """What the programs do not translate follows the policy rule: answers of the pod's own port."""
    target = Target("TCP", world.layout.addresses("web-1")[family], BACKEND_PORT)
    # The first packet of a new wire may wait long for its neighbour.
    world.run(Place.CLIENT, partial(told_by, [target], 1, TIMEOUT_S))
    before = _sent(world, SECOND)
    told = world.run(Place.CLIENT, partial(told_by, [target], TIMES, TIMEOUT_S))[target]
    assert {each.name for each in told} == {"web-1"}
    assert _sent(world, SECOND) - before > 2 * TIMES
