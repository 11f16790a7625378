# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the fuzz run: a node for the session, programs by their settings."""

from __future__ import annotations

import subprocess
from typing import Iterator

import pytest

from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.dataplane.settings import ConfigFlags
from tests.bpf.packet.conftest import DETECTOR, load, settings
from tests.bpf.packet.node import MAC, Node
from tests.bpf.packet.world import PacketWorld

from .scene import Placed, serve, trials

ANSWERS_PER_S = 1_000_000
"""So that no answer escapes by the limit; that has tests of its own."""
SETTINGS = {
    "default": DETECTOR,
    "everything": DETECTOR
    | ConfigFlags.MASQUERADE_ALL
    | ConfigFlags.PRESERVE_SOURCE
    | ConfigFlags.DSR_TCP
    | ConfigFlags.DSR_UDP
    | ConfigFlags.REDIRECT_PEER
    | ConfigFlags.SERVICE_TRAFFIC,
}


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    made = Node()
    yield made
    made.close()


@pytest.fixture(scope="session", params=SETTINGS)
def datapath(request: pytest.FixtureRequest, node: Node) -> Iterator[Datapath]:
    with load(node, settings(SETTINGS[request.param], rejects_per_s=ANSWERS_PER_S)) as made:
        # veth registers receive queues, which trials of XDP ask for, with its first program.
        number = made.programs["kpb_xdp"].info().id
        with node.inside():
            for device in MAC:
                for action in ("detach", "attach"):
                    what = ["xdpdrv"] if action == "detach" else ["xdpdrv", "id", str(number)]
                    command = ["bpftool", "net", action, *what, "dev", device]
                    subprocess.run(command, check=action == "attach", capture_output=True)
        yield made


@pytest.fixture
def world(datapath: Datapath, node: Node) -> PacketWorld:
    made = PacketWorld(datapath, node.ifindex)
    made.prepare()
    serve(made)
    return made


@pytest.fixture
def placed(datapath: Datapath, node: Node, world: PacketWorld) -> Iterator[Placed]:
    """All programs at all devices; the test runs inside of the node."""
    with node.inside():
        yield trials(datapath, node)
