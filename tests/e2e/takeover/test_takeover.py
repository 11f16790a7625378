# SPDX-License-Identifier: Apache-2.0
"""A proxy starts where a kube-proxy was: its rules go, and not one connection with them."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import Any, Iterator

import pytest

from kubeproxy_bpf.sandbox.layout import BACKEND_PORT
from tests.e2e.packets.held import busy, connections, go_on
from tests.e2e.packets.netfilter import inside
from tests.e2e.packets.objects import PORT, addresses_of
from tests.e2e.packets.table import ALL, Via
from tests.e2e.packets.world import MASQUERADE, World, standing, wait
from tests.e2e.takeover import kube_proxy
from tests.e2e.takeover.kube_proxy import Served

pytestmark = [pytest.mark.root, pytest.mark.slow]

VIAS = (Via.NODE1, Via.NODE2, Via.LOAD_BALANCER, Via.EXTERNAL_IP, Via.CLUSTER_IP)
EACH = 20
"""Connections by each way and family: 200 in all."""
MODES = ("iptables-nft", "iptables-legacy", "nftables")
HEALTH_PORT = "10256"


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


def load(world: World, node: str, family: int, mode: str) -> None:
    given = addresses_of("all")
    served = Served(
        "default/all",
        world.cluster_ips["all"][family],
        PORT,
        given.node_port,
        (given.external[family], given.balancer[family]),
        tuple((world.layout.addresses(name)[family], BACKEND_PORT) for name in ALL),
    )
    services = [served, *kube_proxy.many(5, bool(family))]
    pods = world.layout.pod_network[family]
    if mode == "nftables":
        inside(
            world.layout, node, ["nft", "-f", "-"], kube_proxy.nftables(services, pods, family == 1)
        )
        return
    argv = [f"{tool(family, mode)}-restore", "--noflush"]
    inside(world.layout, node, argv, kube_proxy.iptables(services, pods, family == 1))


def tool(family: int, mode: str) -> str:
    command = ("iptables", "ip6tables")[family]
    return command + mode.removeprefix("iptables")


def close(world: World, node: str, family: int, mode: str, forward: str) -> None:
    """Give FORWARD its policy; only what nodes and pods send each other is accepted there."""
    if forward == "ACCEPT":
        return
    pods = world.layout.pod_network[family]
    lines = ["*filter", f":FORWARD {forward}", f"-A FORWARD -s {pods} -d {pods} -j ACCEPT"]
    for each in world.layout.nodes:
        lines.append(f"-A FORWARD -s {each.addresses[family]} -d {pods} -j ACCEPT")
        lines.append(f"-A FORWARD -s {pods} -d {each.addresses[family]} -j ACCEPT")
    argv = [f"{tool(family, mode)}-restore", "--noflush"]
    inside(world.layout, node, argv, "\n".join((*lines, "COMMIT", "")))


def logged(world: World, node: str, event: str) -> list[dict[str, Any]]:
    """What a proxy said of an event so far."""
    path = world.sandbox.directory / "log" / f"kube-proxy-{node}.log"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    found = (json.loads(line) for line in lines if line.startswith("{"))
    return [each for each in found if each.get("event") == event or each.get("msg") == event]


def rules(world: World, node: str) -> str:
    """All that netfilter has on a node."""
    programs = [["nft", "list", "tables"]]
    for family in ("iptables", "ip6tables"):
        programs += [[f"{family}-{build}-save"] for build in ("nft", "legacy")]
    return "".join(inside(world.layout, node, argv) for argv in programs)


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
    with connections(world, "TCP", "all", VIAS, EACH) as before:
        assert len(before) == 200
        assert {each.told.name for each in before} == set(ALL)
        with busy(world):
            world.start_proxies("--logging-format=json")
            for node in world.layout.node_names:
                wait(lambda node=node: taken_over(world, node), True)
            go_on(before)
        with connections(world, "TCP", "all", VIAS) as after:
            go_on(before + after)
            assert {each.told.name for each in after} == set(ALL)
    for node in world.layout.node_names:
        assert logged(world, node, "leftovers_removed")
