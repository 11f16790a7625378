# SPDX-License-Identifier: Apache-2.0
"""A running proxy deletes stale UDP entries of netfilter when endpoints change [J1, J2, J5, J6]."""

from __future__ import annotations

import os
from functools import partial
from typing import Iterator

import pytest

from kubeproxy_bpf.host.ctnetlink import Conntrack
from kubeproxy_bpf.model.addresses import parse_address
from kubeproxy_bpf.model.types import Family
from kubeproxy_bpf.sandbox import namespace
from tests.e2e.packets import kube_proxy_rules
from tests.e2e.packets.asking import Target
from tests.e2e.packets.held import connections, go_on
from tests.e2e.packets.netfilter import inside
from tests.e2e.packets.table import ALL, Place, Via
from tests.e2e.packets.world import MASQUERADE, World, standing, wait

UDP_TIMEOUT = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout"
pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture
def world() -> Iterator[World]:
    """A cluster with kube-proxy's rules, and no proxies yet."""
    name = f"kpbt-h{os.getpid()}-flows"
    with standing(name, "routed", [MASQUERADE, "--bpf-takeover=off"], proxies=False) as made:
        for node in made.layout.nodes:
            kube_proxy_rules.load(made.layout, node, made.cluster_ips)
            # No entry goes by itself while the test looks.
            inside(made.layout, node.name, ["sh", "-c", f"echo 600 >{UDP_TIMEOUT}"])
        yield made


def answering(world: World, target: Target) -> list[str]:
    """The pods that netfilter on node 1 has answer flows to a target."""
    family = Family.IPV6 if ":" in target.address else Family.IPV4
    asked = parse_address(target.address), target.port

    def listed() -> list[bytes]:
        with Conntrack() as conntrack:
            pieces = list(conntrack.udp_entries(family, target.port))
        return [e.answered_by[0] for piece in pieces for e in piece if e.destination == asked]

    names = {parse_address(a): name for name in ALL for a in world.layout.addresses(name)}
    return [names[a] for a in namespace.call(world.layout.netns("node1"), listed)]


def test_entries_of_endpoints_that_went_are_deleted(world: World) -> None:
    """By node port, external and cluster IP in both families; those of others are kept, and TCP."""
    ways = (Via.NODE1, Via.EXTERNAL_IP, Via.CLUSTER_IP)
    targets = [world.target("UDP", "all", via, family) for via in ways for family in (0, 1)]
    for target in targets:
        for _ in range(8):
            assert world.ask(Place.CLIENT, target).name in ALL
    with connections(world, "TCP", "all", (Via.NODE1,)) as streams:
        world.start_proxies()
        before = {target: answering(world, target) for target in targets}
        assert [8] * 6 == [len(names) for names in before.values()]
        assert any(ALL[0] in names for names in before.values())

        world.endpoints("all", ALL[1:])

        for target, names in before.items():
            kept = sorted(name for name in names if name != ALL[0])
            wait(partial(lambda target: sorted(answering(world, target)), target), kept)
        go_on(streams)
