# SPDX-License-Identifier: Apache-2.0
"""Services that change while flows go on (A13, C10, J1 to J6)."""

from __future__ import annotations

import time

import pytest

from kubeproxy_bpf.plan.records import RecordFlags, VipFlags

from . import frames
from .hooks import Hooks, Verdict
from .node import MAC, REMOTE_POD, UPLINK
from .scene import CLIENT, NUMBER, SERVED, both, conversation, destination, send, serve_remote
from .world import LOAD_BALANCER, PacketWorld

pytestmark = pytest.mark.root

OTHER_POD = "10.244.2.11"


def republish(world: PacketWorld, index: int, backends: list[str], protocol: str) -> None:
    members = [world.backend(address, protocol=NUMBER[protocol]) for address in backends]
    flags = RecordFlags.HAS_ENDPOINTS if members else 0
    world.publish(index, members, flags=flags)


@both
def test_another_backend_comes(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """A flow stays with its backend while that is a member (J5, J6)."""
    index = serve_remote(world, protocol)
    flow = conversation(hooks, protocol)
    flow.ask()
    republish(world, index, [OTHER_POD, REMOTE_POD[0]], protocol)
    flow.ask()
    flow.answer()
    flow.ask()
    assert world.counted() == {"FLOW_NEW": 1}


@both
def test_the_backend_goes(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """A UDP flow whose backend was removed ends at once (J2), a TCP flow finishes (J6)."""
    index = serve_remote(world, protocol)
    flow = conversation(hooks, protocol)
    flow.ask()
    republish(world, index, [OTHER_POD], protocol)
    if protocol == "TCP":
        flow.ask()
        flow.answer()
        return
    assert destination(send(hooks, protocol)) == OTHER_POD
    assert world.counted() == {"FLOW_NEW": 2, "FLOW_ENDED": 1}
    assert len(world.flows()) == 2


def test_the_backends_id_is_given_away(hooks: Hooks, world: PacketWorld) -> None:
    """A UDP flow ends too if its backend's id now stands for somebody else."""
    index = serve_remote(world, "UDP")
    conversation(hooks, "UDP").ask()
    world.reuse_backend(REMOTE_POD[0], OTHER_POD, NUMBER["UDP"])
    republish(world, index, [OTHER_POD], "UDP")
    assert destination(send(hooks, "UDP")) == OTHER_POD


@both
def test_no_backend_is_left(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """Without any endpoint flows are left alone (J3); new ones are refused (C10)."""
    index = serve_remote(world, protocol)
    flow = conversation(hooks, protocol)
    flow.ask()
    republish(world, index, [], protocol)
    flow.ask()
    flow.answer()
    send(hooks, protocol, CLIENT._replace(source_port=40001))
    assert world.counted() == {"FLOW_NEW": 1, "PACKET_NO_ENDPOINTS": 1}


@both
def test_the_service_goes(hooks: Hooks, world: PacketWorld, protocol: str) -> None:
    """Flows of a deleted Service go on by its lingering address (A13, J4), no new one comes."""
    vip = "198.51.100.9"
    index = world.service(
        (LOAD_BALANCER, vip, SERVED), remote=[REMOTE_POD[0]], protocol=NUMBER[protocol]
    )
    dialled = CLIENT.to(vip, SERVED)
    flow = conversation(hooks, protocol, dialled)
    flow.ask()
    flow.answer()
    world.vip(vip, VipFlags.EXTERNAL | VipFlags.LINGER)
    world.remove_frontend(vip, SERVED, NUMBER[protocol])
    world.unpublish(index)
    flow.ask(**({"flags": "A"} if protocol == "TCP" else {}))
    flow.answer()
    other = frames.frame(frames.packet(protocol, dialled._replace(source_port=40001)), MAC[UPLINK])
    for hook in (hooks.ingress, hooks.xdp):
        assert hook(UPLINK, other) == (Verdict.UNSPEC, other)


def test_an_heir_takes_over_the_address(hooks: Hooks, world: PacketWorld) -> None:
    """The address goes to a Service made anew: UDP flows end with backends that it has not (J2,
    J5), and those of a backend that it has go on, and with it from then on."""
    vip, number = "198.51.100.9", NUMBER["UDP"]
    front = (LOAD_BALANCER, vip, SERVED)
    dialled = CLIENT.to(vip, SERVED)

    def replace(index: int, backend: str) -> int:
        world.remove_frontend(vip, SERVED, number)
        world.unpublish(index)
        return world.service(front, remote=[backend], protocol=number)

    first = world.service(front, remote=[REMOTE_POD[0]], protocol=number)
    assert destination(send(hooks, "UDP", dialled)) == REMOTE_POD[0]
    second = replace(first, REMOTE_POD[0])
    assert destination(send(hooks, "UDP", dialled)) == REMOTE_POD[0]
    assert not world.count("FLOW_ENDED")
    third = replace(second, OTHER_POD)
    assert destination(send(hooks, "UDP", dialled)) == OTHER_POD
    assert world.count("FLOW_ENDED") == 1
    replace(third, REMOTE_POD[0])
    assert destination(send(hooks, "UDP", dialled)) == REMOTE_POD[0]


def test_an_heir_of_a_service_that_lives_on(hooks: Hooks, world: PacketWorld) -> None:
    """One of its addresses goes to another Service, and nothing else of it changes: the flows of
    that address go too, those of its other address stay."""
    addresses, number = ("198.51.100.9", "198.51.100.10"), NUMBER["UDP"]
    fronts = [(LOAD_BALANCER, address, SERVED) for address in addresses]
    moved, kept = (CLIENT.to(address, SERVED) for address in addresses)
    world.service(*fronts, remote=[REMOTE_POD[0]], protocol=number)
    for dialled in (moved, kept):
        assert destination(send(hooks, "UDP", dialled)) == REMOTE_POD[0]
    world.remove_frontend(addresses[0], SERVED, number)
    world.service(fronts[0], remote=[OTHER_POD], protocol=number)
    time.sleep(0.2)  # asked once a tick, of 0.134 s
    assert destination(send(hooks, "UDP", kept)) == REMOTE_POD[0]
    assert destination(send(hooks, "UDP", moved)) == OTHER_POD
    assert world.count("FLOW_ENDED") == 1


def test_a_stranger_gets_the_index(hooks: Hooks, world: PacketWorld) -> None:
    """A deleted Service's place in the table goes to another Service, its address to nobody: its
    flows are none of the other one's business (J4)."""
    vip, number = "198.51.100.9", NUMBER["UDP"]
    index = world.service((LOAD_BALANCER, vip, SERVED), remote=[REMOTE_POD[0]], protocol=number)
    flow = conversation(hooks, "UDP", CLIENT.to(vip, SERVED))
    flow.ask()
    world.vip(vip, VipFlags.EXTERNAL | VipFlags.LINGER)
    world.remove_frontend(vip, SERVED, number)
    republish(world, index, [OTHER_POD], "UDP")
    flow.ask()
    flow.answer()
    assert world.counted() == {"FLOW_NEW": 1}
