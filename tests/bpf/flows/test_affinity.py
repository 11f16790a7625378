# SPDX-License-Identifier: Apache-2.0
"""Session affinity on the packet path: how long it lasts, and in which sets it counts."""

from __future__ import annotations

import struct
import time

import pytest

from tests.bpf.packet import frames
from tests.bpf.packet.frames import Ends
from tests.bpf.packet.hooks import Hooks
from tests.bpf.packet.node import MAC, UPLINK
from tests.bpf.packet.world import CLUSTER_IP, EXTERNAL_IP, EXTERNAL_LOCAL
from tests.bpf.world import mapped

from .world import VIP, FlowWorld

pytestmark = pytest.mark.root

INNER_VIP = "10.96.0.80"
LOCAL = [f"10.244.1.{number}" for number in range(10, 14)]
REMOTE = [f"10.244.2.{number}" for number in range(10, 14)]
CLIENTS = [f"203.0.113.{number}" for number in range(1, 41)]
TIMEOUT_S = 100
CLIENT_ADDRESS, CLIENT_NETNS = 0, 1


def serve(world: FlowWorld) -> int:
    """A Service by two addresses: one leads to all backends, the other to those of the node."""
    return world.service(
        (CLUSTER_IP, INNER_VIP, 80),
        (EXTERNAL_IP, VIP, 80),
        local=LOCAL,
        remote=REMOTE,
        flags=EXTERNAL_LOCAL,
        affinity_s=TIMEOUT_S,
    )


def ask(hooks: Hooks, client: str, vip: str, port: int) -> str:
    """Who gets a new flow."""
    sent = frames.packet("TCP", Ends(client, port, vip, 80))
    seen = hooks.ingress(UPLINK, frames.frame(sent, MAC[UPLINK]))
    return frames.ends_of(frames.read(seen.data)).destination


def key(client: str, service: int, kind: int = CLIENT_ADDRESS) -> bytes:
    return mapped(client) + struct.pack("=II", service, kind)


def rest(world: FlowWorld, pin: bytes, seconds: int) -> None:
    """Let a pin be unused for so long."""
    value = world.maps["kpb_affinity"].lookup(pin)
    assert value
    last_use = struct.pack("=I", int(time.monotonic()) - seconds)
    world.maps["kpb_affinity"].update(pin, value[:20] + last_use)


def test_what_was_chosen_among_few_counts_among_all(hooks: Hooks, world: FlowWorld) -> None:
    """A backend chosen by local policy is preferred by the other address too (G6)."""
    serve(world)
    for client in CLIENTS:
        chosen = ask(hooks, client, VIP, 1000)
        assert chosen in LOCAL
        assert ask(hooks, client, INNER_VIP, 1001) == chosen


def test_what_was_chosen_among_all_counts_where_it_may(hooks: Hooks, world: FlowWorld) -> None:
    """A remote backend is none by local policy: then another is chosen, and kept (G5, G6)."""
    serve(world)
    first = {client: ask(hooks, client, INNER_VIP, 1000) for client in CLIENTS}
    assert set(first.values()) & set(LOCAL) and set(first.values()) & set(REMOTE)
    for client, chosen in first.items():
        second = ask(hooks, client, VIP, 1001)
        assert second == chosen if chosen in LOCAL else second in LOCAL
        assert ask(hooks, client, VIP, 1002) == second


def test_a_backend_that_left_is_forgotten(hooks: Hooks, world: FlowWorld) -> None:
    """Its clients get others, and keep them when it comes back (G5)."""
    service = serve(world)
    first = {client: ask(hooks, client, VIP, 1000) for client in CLIENTS}
    members = [world.backend(address, 2) for address in LOCAL]
    world.publish(service, members[1:], local=(0, 3), affinity_s=TIMEOUT_S, flags=EXTERNAL_LOCAL)
    second = {client: ask(hooks, client, VIP, 1001) for client in CLIENTS}
    world.publish(service, members, local=(0, 4), affinity_s=TIMEOUT_S, flags=EXTERNAL_LOCAL)
    third = {client: ask(hooks, client, VIP, 1002) for client in CLIENTS}

    assert LOCAL[0] in first.values() and LOCAL[0] not in second.values()
    assert all(second[c] == chosen for c, chosen in first.items() if chosen != LOCAL[0])
    assert third == second


def test_each_new_flow_puts_the_end_off(hooks: Hooks, world: FlowWorld) -> None:
    """Who comes in time keeps its backend; packets of an old flow do not count (G4)."""
    service = serve(world)
    for client in CLIENTS:
        pin = key(client, service)
        chosen = ask(hooks, client, INNER_VIP, 1000)
        for port in (1001, 1002, 1003):
            rest(world, pin, TIMEOUT_S - 5)
            assert ask(hooks, client, INNER_VIP, port) == chosen
        rest(world, pin, TIMEOUT_S - 5)
        before = world.maps["kpb_affinity"].lookup(pin)
        ask(hooks, client, INNER_VIP, 1000)
        assert world.maps["kpb_affinity"].lookup(pin) == before


def test_after_its_time(hooks: Hooks, world: FlowWorld) -> None:
    """A client that comes too late is a new one (G4)."""
    service = serve(world)
    first = [ask(hooks, client, INNER_VIP, 1000) for client in CLIENTS]
    for client in CLIENTS:
        rest(world, key(client, service), TIMEOUT_S + 2)
    second = [ask(hooks, client, INNER_VIP, 1001) for client in CLIENTS]

    assert first != second


def test_sockets_have_pins_of_their_own(hooks: Hooks, world: FlowWorld) -> None:
    """A network namespace whose number looks like a client's address is not that client (G2)."""
    service = serve(world)
    for client in CLIENTS:
        chosen = ask(hooks, client, INNER_VIP, 1000)
        pin = world.maps["kpb_affinity"].lookup(key(client, service))
        assert pin
        other = struct.pack("=I", world.backend(REMOTE[0] if chosen in LOCAL else LOCAL[0]))
        world.maps["kpb_affinity"].update(key(client, service, CLIENT_NETNS), other + pin[4:])
        assert ask(hooks, client, INNER_VIP, 1001) == chosen
