# SPDX-License-Identifier: Apache-2.0
"""Fixtures of many flows: a table of 65,536 entries for the session, a crowd, a world per test."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Iterator, NamedTuple

import pytest

from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.dataplane.tracking import TICK_NS, TIMEOUTS, TrackState
from tests.bpf.packet.conftest import SNAT, load, settings
from tests.bpf.packet.hooks import Hooks
from tests.bpf.packet.node import Node

from .crowd import Crowd
from .world import FlowWorld

ENTRIES = 65536
SNAT_PORTS = SNAT[:256]
BRIEF_TICKS = 8
BRIEF_S = (BRIEF_TICKS + 2) * TICK_NS / 1e9
_LASTING = (TrackState.TCP_ESTABLISHED, TrackState.OTHER)


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    made = Node()
    yield made
    made.close()


def load_large(node: Node, **changed: Any) -> Datapath:
    wanted = settings(snat_first=SNAT_PORTS.start, snat_count=len(SNAT_PORTS), **changed)
    sizes = {"kpb_flows": ENTRIES, "kpb_flow_queue": ENTRIES}
    return load(node, wanted, bare_ip=False, **sizes)


@pytest.fixture(scope="session")
def datapath(node: Node) -> Iterator[Datapath]:
    with load_large(node) as made:
        yield made


@pytest.fixture(scope="session")
def brief_datapath(node: Node) -> Iterator[Datapath]:
    """All but established TCP connections are over after BRIEF_S."""
    timeout = list(struct.unpack(f"={TIMEOUTS}I", settings().timeout))
    for state in set(TrackState) - set(_LASTING):
        timeout[state] = BRIEF_TICKS
    with load_large(node, timeout=struct.pack(f"={TIMEOUTS}I", *timeout)) as made:
        yield made


@pytest.fixture
def world(datapath: Datapath, node: Node) -> FlowWorld:
    made = FlowWorld(datapath, node.ifindex)
    made.prepare()
    return made


@pytest.fixture
def hooks(datapath: Datapath, node: Node, world: FlowWorld) -> Hooks:
    return Hooks(node, datapath.programs)


@pytest.fixture(scope="session")
def generators(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the generator is compiled."""
    return tmp_path_factory.mktemp("generators")


@pytest.fixture(scope="session")
def crowd(node: Node, datapath: Datapath, generators: Path) -> Iterator[Crowd]:
    with Crowd(node, datapath, generators) as made:
        yield made


class Brief(NamedTuple):
    """A world in which what is unanswered is soon over."""

    crowd: Crowd
    world: FlowWorld


@pytest.fixture
def brief(brief_datapath: Datapath, node: Node, generators: Path) -> Iterator[Brief]:
    world = FlowWorld(brief_datapath, node.ifindex)
    world.prepare()
    with Crowd(node, brief_datapath, generators) as crowd:
        yield Brief(crowd, world)
