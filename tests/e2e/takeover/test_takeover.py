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
from tests.e2e.takeover.clusters import (
    HEALTH_PORT,
    close,
    listening,
    load,
    logged,
    make_empty,
    rules,
)

pytestmark = [pytest.mark.root, pytest.mark.slow]

VIAS = (Via.NODE1, Via.NODE2, Via.LOAD_BALANCER, Via.EXTERNAL_IP, Via.CLUSTER_IP)
EACH = 20
"""Connections by each way and family: 200 in all."""
FEW = [("iptables-nft", "ACCEPT"), ("nftables", "ACCEPT"), ("iptables-legacy", "DROP")]
MORE = [("iptables-nft", "DROP"), ("iptables-legacy", "ACCEPT")]
CASES = FEW + MORE


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A cluster with nothing on its nodes, neither rules nor proxies."""
    name = f"kpbt-t{os.getpid()}-over"
    with standing(name, "bridge", [MASQUERADE], proxies=False) as made:
        yield made


@contextmanager
def ruled(world: World, mode: str, forward: str = "ACCEPT") -> Iterator[None]:
    """A kube-proxy's rules on all nodes, and no process of it; afterwards nothing is left there."""
    try:
        for node in world.layout.node_names:
            for family in (0, 1):
                load(world, node, family, mode)
                close(world, node, family, mode, forward)
        yield
    finally:
        for node in world.layout.node_names:
            make_empty(world, node)


def taken_over(world: World, node: str) -> bool:
    return "KUBE-S" not in rules(world, node) and " kube-proxy\n" not in rules(world, node)


@pytest.mark.parametrize(("mode", "forward"), CASES)
def test_no_connection_is_lost(mode: str, forward: str, world: World, long: bool) -> None:
    """200 that run, and new ones all the time.

    Where FORWARD is open only kube-proxy asks conntrack on the nodes; where it drops, KUBE-FORWARD
    alone let them pass, and what comes in its place lets old and new ones. Each kind of rules and
    each policy is tried in the bounded form, and all of them together with ``--long``.
    """
    if (mode, forward) in MORE and not long:
        pytest.skip("kind and policy have been tried with others; --long for all of them")
    with ruled(world, mode, forward):
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


def test_a_kube_proxy_that_lives_keeps_its_rules_until_it_ends(world: World) -> None:
    """Side by side nothing is taken away; when it stops listening its rules go."""
    with ruled(world, "iptables-nft"):
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
def test_rules_stay_if_the_operator_says_so(mode: str, world: World) -> None:
    """One line of the log tells what is there, or not even that."""
    with ruled(world, "nftables"):
        before = rules(world, "node1")
        flags = (MASQUERADE, "--logging-format=json", f"--bpf-takeover={mode}")
        # Its own rules are no matter here.
        flags += ("--bpf-forward-accept=off",)
        world.sandbox.start_proxy("node1", flags=flags)
        wait(lambda: bool(logged(world, "node1", "uplinks_chosen")), True)
        expected = 1 if mode == "report" else 0
        wait(lambda: len(logged(world, "node1", "leftovers_found")), expected)
        assert rules(world, "node1") == before
