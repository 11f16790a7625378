# SPDX-License-Identifier: Apache-2.0
"""The programs as a kernel sees them that lacks the newer helpers: less exact, never wrong."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from kubeproxy_bpf.dataplane.attach import attach, close_all
from kubeproxy_bpf.dataplane.loader import Datapath, load_datapath
from kubeproxy_bpf.dataplane.settings import ConfigFlags, Settings, netns_cookie
from kubeproxy_bpf.plan.records import BackendFlags, RecordFlags
from tests.bpf.world import UDP, World

from . import clients
from .clients import ask, error_of, opened
from .conftest import SIZES
from .places import Places

pytestmark = pytest.mark.root

VIP, B1, B2, B3 = "172.30.0.1", "10.99.1.1", "10.99.1.2", "10.99.1.3"
SOURCES = Path(__file__).parents[3] / "bpf"
BEYOND = 300  # more than such a kernel looks through


@pytest.fixture(scope="module")
def datapath(places: Places, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Datapath]:
    """Programs that were built without the newer helpers, attached."""
    built = tmp_path_factory.mktemp("old")
    command = ["make", "-s", "-C", SOURCES, f"OUT={built}", f"BUILD={built}"]
    command += ["EXTRA_CFLAGS=-DKPB_OLD_KERNEL", f"{built}/kube_proxy.bpf.o"]
    subprocess.run(command, check=True)
    settings = Settings(places.run(netns_cookie), 1, ConfigFlags.TCP_ORIGIN)
    with load_datapath(built / "kube_proxy.bpf.o", None, SIZES, settings) as loaded:
        links = attach(loaded.programs, places.cgroup)
        try:
            yield loaded
        finally:
            close_all(links.values())


def test_refusals_are_left_to_the_packet_path(places: Places, world: World) -> None:
    """Without bpf_set_retval() the destination is left alone: never EPERM."""
    world.serve(VIP, [], flags=RecordFlags(0))
    assert places.run(error_of, clients.tcp, VIP) == "ENETUNREACH"
    assert world.count("NO_ENDPOINTS") == 1


def test_sockets_keep_members_that_are_near(places: Places, world: World) -> None:
    """A UDP socket keeps its backend over changes, as on a new kernel."""
    index = world.serve(VIP, [B1], protocol=UDP)

    def scenario() -> str:
        world.publish(index, [world.backend(B1, protocol=UDP)])
        with opened(VIP, socket.SOCK_DGRAM) as client:
            ask(client, VIP)
            world.publish(index, [world.backend(b, protocol=UDP) for b in (B2, B3, B1)])
            return ask(client, VIP)[0]

    assert {places.run(scenario) for _ in range(5)} == {B1}


def test_members_that_are_far_are_replaced_by_valid_ones(places: Places, world: World) -> None:
    """Beyond the bound a backend counts as gone; the other is one of the service."""
    index = world.serve(VIP, [B1], protocol=UDP)

    def scenario() -> str:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            ask(client, VIP)
            other, old = world.backend(B2, protocol=UDP), world.backend(B1, protocol=UDP)
            world.publish(index, [other] * BEYOND + [old], cluster=BEYOND)
            return ask(client, VIP)[0]

    assert places.run(scenario) == B2


def test_spilled_flows_are_removed(places: Places, world: World) -> None:
    """A closing socket removes what it left in the overflow table."""
    vips = [f"172.30.0.{n}" for n in range(1, 9)]
    for vip in vips:
        world.serve(vip, [B1, B2, B3], protocol=UDP)

    def scenario() -> int:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            first = [ask(client, vip) for vip in vips]
            assert [ask(client, vip)[0] for vip in vips] == [name for name, _ in first]
            return world.entries("kpb_sock_flows")

    assert places.run(scenario) > 0
    assert world.entries("kpb_sock_flows") == 0


def test_loopback_sources(places: Places, world: World) -> None:
    """The search for a backend on the host works within the bound."""
    index = world.serve(VIP, [B1])
    world.publish(index, [world.backend(B1), world.backend(B2, BackendFlags.HOST)])
    assert places.run(clients.tcp, VIP, 80, "127.0.0.1") == (B2, VIP)
