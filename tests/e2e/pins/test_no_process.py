# SPDX-License-Identifier: Apache-2.0
"""The datapath without any process, and the process that comes back to it, in both modes."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Iterator

import pytest

from kubeproxy_bpf.libbpf import AttachType, device_chain
from tests.e2e.packets.asking import Told
from tests.e2e.packets.held import busy, connections, go_on
from tests.e2e.packets.table import ALL, Place, Via
from tests.e2e.packets.world import World
from tests.e2e.pins.node import PINLESS, PINNED, ContainedNode, Found, until

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

AWAY_S = float(os.environ.get("KPB_TEST_AWAY_S", "3"))
"""How long no process is there; a soak sets more."""
VIAS = (Via.NODE1, Via.LOAD_BALANCER)


@pytest.mark.parametrize("mode", [PINNED, PINLESS])
def test_nobody_misses_the_process(mode: str, node: ContainedNode, world: World) -> None:
    """Sockets and packets are served without it, however it ended; the next one goes on with the
    same maps, and after some restarts there is as much as after the first start."""
    node.start(mode)
    world.settle()
    first = node.found()
    with connections(world, "TCP", "all", VIAS) as opened:
        for number in (signal.SIGTERM, signal.SIGKILL):
            before = node.found()
            node.end(number)
            with busy(world), ExitStack() as stack:
                endpoints = ALL[:3] if number is signal.SIGTERM else ALL
                _goes_on_alone(node, world, stack, endpoints)
                go_on(opened)
                assert node.found() == before
                _goes_on_with_another(mode, node, world, before)
                assert _who_answers(world) == set(endpoints)
                go_on(opened)
            until(lambda: not _differs(node.found(), first), node.log)
        _other_sizes(mode, node, world)


def _goes_on_alone(
    node: ContainedNode, world: World, stack: ExitStack, endpoints: tuple[str, ...]
) -> None:
    """Without a process, while the cluster changes and a device comes."""
    begun = time.monotonic()
    stack.enter_context(_device_comes(node))
    world.endpoints("all", endpoints, settle=False)
    while time.monotonic() < begun + AWAY_S:
        _served_from_inside(world)
        time.sleep(0.1)


def _goes_on_with_another(mode: str, node: ContainedNode, world: World, before: Found) -> None:
    """A process that starts now serves what changed, with its own programs on the same maps."""
    node.start(mode)
    world.settle()
    until(partial(_has_programs, node), node.log)
    after = node.found()
    assert after.maps == before.maps
    assert not after.programs & before.programs
    assert after.links >= before.links
    assert (bool(after.links), bool(after.unlinked)) == (mode == PINNED, mode == PINLESS)


def _differs(found: Found, first: Found) -> bool:
    same = (found.maps, found.links, found.unlinked) == (first.maps, first.links, first.unlinked)
    return not same or len(found.programs) != len(first.programs)


def _other_sizes(mode: str, node: ContainedNode, world: World) -> None:
    """Maps of another size are new and take over what the old ones hold, which end."""
    first = node.found()
    with busy(world):
        node.end(signal.SIGTERM)
        node.start(mode, "--bpf-max-services=4096")
        world.settle()
    last = node.found()
    assert len(last.maps) == len(first.maps)
    assert last.maps != first.maps
    assert (len(last.links), last.unlinked) == (len(first.links), first.unlinked)


@contextmanager
def _device_comes(node: ContainedNode) -> Iterator[None]:
    """A veth as a CNI makes it for a new pod."""
    there = f"/run/netns/{node.sandbox.layout.netns('client')}"
    made = f"link add name v-late type veth peer name eth9 netns {there}"
    node.world.ip(node.name, *made.split())
    try:
        node.world.ip(node.name, *"link set v-late up".split())
        yield
    finally:
        node.world.ip(node.name, *"link del v-late".split())


def _has_programs(node: ContainedNode) -> bool:
    return node.sandbox.run_in(node.name, partial(_at_device, "v-late"))


def _at_device(name: str) -> bool:
    import socket

    chain = device_chain(socket.if_nametoindex(name), AttachType.TCX_INGRESS)
    return len(chain) == 1


def _served_from_inside(world: World) -> None:
    """A new connection through the hooks of the sockets, in both families and protocols."""
    for protocol in ("TCP", "UDP"):
        for family in (0, 1):
            target = world.target(protocol, "all", Via.CLUSTER_IP, family)
            for place in (Place.HOOKED_POD, Place.HOOKED_HOST):
                assert world.ask(place, target).name in ALL, (place, target)


def _who_answers(world: World) -> set[str]:
    target = world.target("TCP", "all", Via.NODE1, 0)
    told: list[Told] = [world.ask(Place.CLIENT, target) for _ in range(40)]
    return {each.name for each in told}
