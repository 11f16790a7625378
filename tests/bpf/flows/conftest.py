# SPDX-License-Identifier: Apache-2.0
"""Fixtures of many flows: a table of 65,536 entries for the session, a crowd, a world per test."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from kubeproxy_bpf.dataplane.loader import Datapath
from tests.bpf.packet.conftest import load, settings
from tests.bpf.packet.hooks import Hooks
from tests.bpf.packet.node import Node

from .crowd import Crowd
from .world import FlowWorld

ENTRIES = 65536
SNAT_PORTS = range(40000, 40256)


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    made = Node()
    yield made
    made.close()


@pytest.fixture(scope="session")
def datapath(node: Node) -> Iterator[Datapath]:
    wanted = settings(snat_first=SNAT_PORTS.start, snat_count=len(SNAT_PORTS))
    with load(node, wanted, kpb_flows=ENTRIES, kpb_flow_queue=ENTRIES) as made:
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
