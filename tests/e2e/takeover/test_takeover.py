# SPDX-License-Identifier: Apache-2.0
"""A proxy starts where a kube-proxy was: its rules go, and not one connection with them."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Iterator

import pytest

from tests.e2e.packets.asking import again
from tests.e2e.packets.held import busy, connections, go_on
from tests.e2e.packets.table import ALL, Place, Via
from tests.e2e.packets.world import MASQUERADE, World, standing, wait
from tests.e2e.takeover.clusters import HEALTH_PORT, close, listening, load, logged, rules

pytestmark = [pytest.mark.root, pytest.mark.slow]

VIAS = (Via.NODE1, Via.NODE2, Via.LOAD_BALANCER, Via.EXTERNAL_IP, Via.CLUSTER_IP)
EACH = 20
"""Connections by each way and family: 200 in all."""
MODES = ("iptables-nft", "iptables-legacy", "nftables")


@contextmanager
def cluster(mode: str, forward: str = "ACCEPT") -> Iterator[World]:
    """A cluster with nothing on its nodes but a kube-proxy's rules, and no process of it."""
    name = f"kpbt-t{os.getpid()}-{mode[-6:]}"
    with standing(name, "bridge", [MASQUERADE], proxies=False) as world:
        for node in world.layout.node_names:
            for family in (0, 1):
                load(world, node, family, mode)
                close(world, node, family, mode, forward)
        yield world


def taken_over(world: World, node: str) -> bool:
    return "KUBE-S" not in rules(world, node) and " kube-proxy\n" not in rules(world, node)


@pytest.mark.parametrize("mode", MODES)
def test_no_connection_is_lost_where_forward_is_open(mode: str) -> None:
    """200 that run, and new ones all the time; on the nodes only kube-proxy asks conntrack."""
    with cluster(mode) as world:
        survives(world)


@pytest.mark.parametrize("mode", MODES[:2])
def test_no_connection_is_lost_where_forward_drops(mode: str) -> None:
    """KUBE-FORWARD alone let them pass; what comes in its place lets old and new ones."""
    with cluster(mode, "DROP") as world:
        survives(world)


def survives(world: World) -> None:
    with (
        connections(world, "UDP", "all", VIAS, 1) as datagrams,
        connections(world, "TCP", "all", VIAS, EACH) as before,
    ):
        assert len(before) == 200
        assert {each.told.name for each in before} == set(ALL)
        with busy(world), busy(world, via=Via.CLUSTER_IP, place=Place.HOOKED_POD):
            world.start_proxies("--logging-format=json")
            for node in world.layout.node_names:
                wait(lambda node=node: taken_over(world, node), True)
            go_on(before)
            assert {again(each.sock).name for each in datagrams} <= set(ALL)
        with connections(world, "TCP", "all", VIAS) as after:
            go_on(before + after)
            assert {each.told.name for each in after} == set(ALL)
    for node in world.layout.node_names:
        assert logged(world, node, "leftovers_removed")


def test_a_kube_proxy_that_lives_keeps_its_rules_until_it_ends() -> None:
    """Side by side nothing is taken away; when it stops listening its rules go."""
    with cluster("iptables-nft") as world:
        before = rules(world, "node1").count("KUBE-SEP-")
        with listening(world.spot("node1")):
            # Unhealthy as long as the port is taken, so nobody waits for that.
            world.sandbox.start_proxy("node1", flags=(MASQUERADE, "--logging-format=json"))
            wait(lambda: bool(logged(world, "node1", "leftovers_found")), True)
            assert logged(world, "node1", "kube_proxy_alive")[0]["ports"] == [HEALTH_PORT]
            assert logged(world, "node1", "leftovers_found")[0]["iptables_jumps"] == 24
            assert rules(world, "node1").count("KUBE-SEP-") == before > 0
        wait(lambda: taken_over(world, "node1"), True)
        assert not taken_over(world, "node2")


@pytest.mark.parametrize("mode", ["report", "off"])
def test_rules_stay_if_the_operator_says_so(mode: str) -> None:
    """One line of the log tells what is there, or not even that."""
    with cluster("nftables") as world:
        before = rules(world, "node1")
        flags = (MASQUERADE, "--logging-format=json", f"--bpf-takeover={mode}")
        world.sandbox.start_proxy("node1", flags=flags)
        wait(lambda: bool(logged(world, "node1", "uplinks_chosen")), True)
        expected = 1 if mode == "report" else 0
        wait(lambda: len(logged(world, "node1", "leftovers_found")), expected)
        assert rules(world, "node1") == before
