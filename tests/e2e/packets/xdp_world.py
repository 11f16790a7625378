# SPDX-License-Identifier: Apache-2.0
"""A world with XDP at the uplinks of its nodes, and what holds in it in either mode."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from functools import partial
from typing import Iterator

from tests.e2e.packets import bulk
from tests.e2e.packets.table import Place, Via
from tests.e2e.packets.world import PRESERVE, World, standing
from tests.e2e.packets.xdp_peers import ready_for_native_xdp

MODES = {"native": 1, "generic": 2}
"""As ``ip`` numbers them."""
SIZE = 10_000_000
DIGEST = bulk.digest(SIZE)


@contextmanager
def with_xdp(mode: str) -> Iterator[World]:
    name, flags = f"kpbt-p{os.getpid()}-{mode}", [PRESERVE, f"--bpf-xdp={mode}"]
    with standing(name, "routed", flags, strict=True, proxies=False) as made:
        made.stack.enter_context(ready_for_native_xdp(made.layout))
        made.start_proxies()
        yield made


def xdp_modes(world: World, node: str) -> dict[str, int]:
    """The mode of XDP at each device of a node that has a program."""
    links = json.loads(world.ip(node, "-j", "link"))
    return {link["ifname"]: link["xdp"]["mode"] for link in links if "xdp" in link}


def digests(world: World, service: str, family: int) -> set[str]:
    """What arrives of much data, from the backends and at them."""
    target = (world.address(service, Via.NODE1, family), world.bulk_port(service, Via.NODE1))
    transfers = (partial(bulk.take, target, SIZE), partial(bulk.give, target, SIZE))
    return {world.run(Place.CLIENT, transfer) for transfer in transfers}
