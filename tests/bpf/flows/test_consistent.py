# SPDX-License-Identifier: Apache-2.0
"""Consistent choice: what two nodes make of the same clients."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Iterator, NamedTuple, Sequence

import pytest

from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.plan.records import RecordFlags
from tests.bpf.packet.node import LOCAL_POD, Node
from tests.bpf.packet.world import EXTERNAL_IP, EXTERNAL_LOCAL
from tests.bpf.world import PORT

from .crowd import ACK, SYN, Crowd, Place
from .world import VIP, FlowWorld

pytestmark = pytest.mark.root

CLIENTS = 1000
BACKENDS = [f"10.244.1.{number}" for number in range(10, 20)]
FLAGS = EXTERNAL_LOCAL | RecordFlags.CONSISTENT
CHI_SQUARE = 27.9
"""Of nine degrees of freedom: one even distribution of a thousand exceeds it."""


class OneNode(NamedTuple):
    """An instance of the programs with maps of its own."""

    crowd: Crowd
    world: FlowWorld

    def serve(self, backends: Sequence[str]) -> Place:
        """The Service, its backends known under ids and in slots of this order."""
        self.world.prepare()
        self.world.service((EXTERNAL_IP, VIP, 80), local=backends, flags=FLAGS)
        return Place((VIP, 80), (LOCAL_POD[0], PORT))

    def choices(self, place: Place, flags: int = SYN) -> list[str]:
        """By client: who gets its new flow."""
        self.world.forget()
        self.crowd.ask(place, CLIENTS, flags)
        table = self.world.table()
        keys = (self.world.key(place, number) for number in range(CLIENTS))
        return [self.world.destination(table[key]) for key in keys]


@pytest.fixture
def nodes(
    node: Node, datapath: Datapath, brief_datapath: Datapath, generators: Path
) -> Iterator[tuple[OneNode, OneNode]]:
    first, second = (FlowWorld(each, node.ifindex) for each in (datapath, brief_datapath))
    with Crowd(node, datapath, generators) as one, Crowd(node, brief_datapath, generators) as two:
        yield OneNode(one, first), OneNode(two, second)


def test_two_nodes_choose_alike(nodes: tuple[OneNode, OneNode]) -> None:
    """Whatever ids and places the backends have, and also in mid-stream."""
    one, two = nodes
    chosen = one.choices(one.serve(BACKENDS))
    place = two.serve(BACKENDS[5:] + BACKENDS[4::-1])

    assert two.choices(place) == chosen
    assert two.choices(place, ACK) == chosen
    assert len(set(chosen)) == len(BACKENDS)


def test_only_clients_of_the_backend_that_left_move(nodes: tuple[OneNode, OneNode]) -> None:
    """And what they get instead is any of the others."""
    one, two = nodes
    gone = BACKENDS[3]
    before = one.choices(one.serve(BACKENDS))
    after = two.choices(two.serve([other for other in BACKENDS if other != gone]))

    moved = {now for was, now in zip(before, after, strict=True) if was == gone}
    assert moved == set(BACKENDS) - {gone}
    assert all(was in (now, gone) for was, now in zip(before, after, strict=True))


def test_the_choice_is_even(nodes: tuple[OneNode, OneNode]) -> None:
    """No backend is preferred: chi square over a thousand clients."""
    one, _ = nodes
    counts = Counter(one.choices(one.serve(BACKENDS)))

    even = CLIENTS / len(BACKENDS)
    assert sum((counts[b] - even) ** 2 / even for b in BACKENDS) < CHI_SQUARE


def test_a_scan_in_mid_stream(nodes: tuple[OneNode, OneNode]) -> None:
    """Packets of connections that nobody has do not pass for connections."""
    one, _ = nodes
    place = one.serve(BACKENDS)
    one.choices(place, ACK)

    table = one.world.table()
    assert one.world.states(table, place, range(CLIENTS)) == {"TCP_NEW"}
