# SPDX-License-Identifier: Apache-2.0
"""Nodes whose FORWARD drops by policy, and no CNI that accepts anything: Services still work [E12].

Outside clients reach pods of the node that they ask; that is what netfilter sees forwarded.
"""

from __future__ import annotations

import os
import signal
from typing import Iterator

import pytest

from kubeproxy_bpf.sandbox.layout import BACKEND_PORT
from tests.e2e.packets.asking import Target
from tests.e2e.packets.netfilter import inside
from tests.e2e.packets.table import ON_NODE1, Place, Via
from tests.e2e.packets.world import MASQUERADE, PRESERVE, World, standing, wait

pytestmark = [pytest.mark.root, pytest.mark.slow]

NODE = "node1"
CHAIN = "KUBE-PROXY-BPF-FORWARD"
PROGRAMS = ("iptables", "ip6tables")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A cluster of closed nodes, without proxies yet."""
    with standing(f"kpbt-h{os.getpid()}-drop", "routed", proxies=False) as made:
        for node in made.layout.node_names:
            close(made, node)
        yield made


def close(world: World, node: str) -> None:
    for program in PROGRAMS:
        inside(world.layout, node, [program, "-P", "FORWARD", "DROP"])


@pytest.fixture(autouse=True)
def ended(world: World) -> Iterator[None]:
    """What the proxy of the test before left is taken over, or taken away, by the next one."""
    yield
    end(world)
    close(world, NODE)


def start(world: World, *flags: str) -> None:
    """The proxy of the one node that is asked. Pods do not reach those of other nodes here, so
    nobody waits until they do."""
    world.sandbox.start_proxy(NODE, flags=flags)
    world.sandbox.wait_ready()


def end(world: World) -> None:
    if f"kube-proxy-{NODE}" in world.sandbox._started:
        world.end_proxy(NODE, signal.SIGTERM)
        del world.sandbox._started[f"kube-proxy-{NODE}"]


def targets(world: World) -> list[Target]:
    """A Service with pods of node 1 only, by all ways that lead there from outside."""
    return [
        world.target(protocol, "local", via, family)
        for via in (Via.NODE1, Via.LOAD_BALANCER, Via.EXTERNAL_IP)
        for protocol in ("TCP", "UDP")
        for family in (0, 1)
    ]


def answered(world: World, target: Target) -> bool:
    return world.ask(Place.CLIENT, target).name in ON_NODE1


@pytest.mark.parametrize("flag", [MASQUERADE, PRESERVE], ids=["masquerade", "preserve"])
def test_outside_clients_reach_pods_behind_a_closed_forward(flag: str, world: World) -> None:
    """Packets of ours are accepted by their mark, answers because they belong to them."""
    start(world, flag)

    for target in targets(world):
        wait(lambda target=target: answered(world, target), True)

    # What is none of ours stays outside.
    pod = world.layout.addresses("web-1")[0]
    world.ip("net", "route", "replace", f"{pod}/32", "via", world.layout.addresses("node1")[0])
    direct = Target("UDP", pod, BACKEND_PORT, False)
    assert "silence" == world.ask(Place.CLIENT, direct).name
    inside(world.layout, "node1", ["iptables", "-P", "FORWARD", "ACCEPT"])
    assert "web-1" == world.ask(Place.CLIENT, direct).name


def test_without_the_rules_nothing_passes_and_with_them_again(world: World) -> None:
    """off takes them away at the next start, auto puts them back; also after a flush."""
    start(world, MASQUERADE)
    first = targets(world)[0]
    wait(lambda: answered(world, first), True)
    end(world)
    start(world, MASQUERADE, "--bpf-forward-accept=off")
    assert "silence" == world.ask(Place.CLIENT, first).name
    end(world)
    start(world, MASQUERADE)
    wait(lambda: answered(world, first), True)

    for program in PROGRAMS:
        inside(world.layout, "node1", [program, "-F", "FORWARD"])

    for target in targets(world):
        wait(lambda target=target: answered(world, target), True)
    assert f"-A FORWARD -j {CHAIN}" in inside(world.layout, "node1", ["iptables", "-S", "FORWARD"])
