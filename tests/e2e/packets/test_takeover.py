# SPDX-License-Identifier: Apache-2.0
"""From kube-proxy's rules to our programs: connections that netfilter carries are not lost."""

from __future__ import annotations

import os
from typing import Iterator

import pytest

from tests.e2e.packets import kube_proxy_rules
from tests.e2e.packets.asking import again
from tests.e2e.packets.held import connections, go_on
from tests.e2e.packets.table import ALL, Via
from tests.e2e.packets.world import MASQUERADE, World, standing

pytestmark = [pytest.mark.root, pytest.mark.slow]

VIAS = (Via.NODE1, Via.NODE2, Via.LOAD_BALANCER, Via.EXTERNAL_IP, Via.CLUSTER_IP)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A cluster whose Services are rules of netfilter, without any of our programs."""
    name = f"kpbt-p{os.getpid()}-take"
    with standing(name, "bridge", [MASQUERADE], strict=True, proxies=False) as made:
        for node in made.layout.nodes:
            kube_proxy_rules.load(made.layout, node, made.cluster_ips)
        yield made


def test_connections_of_kube_proxy_live_on(world: World) -> None:
    """They live while both are there and when the rules are gone, and new ones are served.

    A client of UDP always gets its answer, though maybe from another backend than before.
    """
    with (
        connections(world, "TCP", "all", VIAS) as before,
        connections(world, "UDP", "all", VIAS) as datagrams,
    ):
        assert {each.told.name for each in before} == set(ALL)
        world.start_proxies("--bpf-takeover=off")
        go_on(before)
        assert {again(each.sock).name for each in datagrams} <= set(ALL)
        with connections(world, "TCP", "all", VIAS) as between:
            remove_rules(world)
            with connections(world, "TCP", "all", VIAS) as after:
                go_on(before + between + after)
                assert {each.told.name for each in after} == set(ALL)
            assert {again(each.sock).name for each in datagrams} <= set(ALL)


def remove_rules(world: World) -> None:
    for node in world.layout.nodes:
        kube_proxy_rules.remove(world.layout, node)
