# SPDX-License-Identifier: Apache-2.0
"""The flow table is lost, and connections are not: where every node chooses alike it is rebuilt.

So it is with VIPs under DSR and a consistent choice: nothing of a flow is only in the table, and
the client's next packet makes it anew. Ports given to masqueraded flows are only there, and an
answer that leaves before the client's next packet shows the backend's own address: that is why a
restart keeps the table (``test_survival``).
"""

from __future__ import annotations

import os
from typing import Iterator

import pytest

from kubeproxy_bpf.libbpf import BpfMap
from tests.e2e.packets.held import connections, go_on
from tests.e2e.packets.table import Via
from tests.e2e.packets.world import PRESERVE, World, standing

pytestmark = [pytest.mark.root, pytest.mark.slow]

VIRTUAL = (Via.LOAD_BALANCER, Via.EXTERNAL_IP)
TIMES = 10


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    flags = [PRESERVE, "--bpf-forwarding=dsr", "--bpf-algorithm=maglev"]
    with standing(f"kpbt-p{os.getpid()}-anew", "routed", flags) as made:
        yield made


def wipe(world: World, node: str) -> int:
    """Remove all flows of a node; tells how many there were."""
    (pin,) = world.sandbox.pin_path(node).glob("*/kpb_flows")
    with BpfMap.open_pinned(pin) as flows:
        size = flows.key_size
        return sum(flows.delete_batch(keys[: n * size], n) for keys, _, n in flows.batches())


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_connections_go_on_without_their_flows(protocol: str, world: World) -> None:
    """Time and again both tables are emptied; each connection meets the backend that it had."""
    with connections(world, protocol, "all", VIRTUAL, each=12) as opened:
        assert {each.told.name for each in opened} == {"web-1", "web-2", "web-3", "web-4"}
        for _ in range(TIMES):
            assert min(wipe(world, node) for node in world.layout.node_names) > 0
            go_on(opened)
