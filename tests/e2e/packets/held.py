# SPDX-License-Identifier: Apache-2.0
"""Connections that must live through a change: opened before it, busy during it, asked after it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Iterator, NamedTuple

from tests.e2e.flows.places import socket_in
from tests.e2e.packets.asking import Target, Told, again, exchange, made
from tests.e2e.packets.table import Place, Via
from tests.e2e.packets.world import World
from tests.fault.load.offered import GENERATOR

RATE, HELD = 150, 30
_LEAST_SECONDS = 1.0


class Open(NamedTuple):
    """A connection, and who answered on it first."""

    sock: socket.socket
    target: Target
    told: Told


@contextmanager
def connections(
    world: World,
    protocol: str,
    service: str,
    vias: tuple[Via, ...],
    each: int = 6,
    place: str = "client",
) -> Iterator[list[Open]]:
    """Some connections of the outside client, or of a place, by each way, in both families."""
    with ExitStack() as stack:
        opened = []
        for via in vias:
            for family in (0, 1):
                target = world.target(protocol, service, via, family)
                for _ in range(each):
                    sock = socket_in(world.sandbox, place, partial(made, target))
                    sock.settimeout(3.0)
                    stack.enter_context(sock)
                    opened.append(Open(sock, target, exchange(sock, target)))
        yield opened


def go_on(opened: list[Open]) -> None:
    """Each connection is still with its backend, which sees it as before."""
    for each in opened:
        told = again(each.sock)
        assert told == each.told, (each.target, told, each.told)


@contextmanager
def busy(
    world: World,
    service: str = "all",
    via: Via = Via.NODE1,
    place: Place = Place.CLIENT,
    failures: int = 0,
) -> Iterator[None]:
    """Offer connections of the outside client, or of a place, while the block runs; none may fail
    or break.

    ``failures`` allows so many new ones not to come about; what is held must not break.
    """
    target = world.target("TCP", service, via, 0)
    argv = [sys.executable, "-I", "-S", str(GENERATOR), target.address]
    argv += [str(target.port), str(target.port), f"--tcp={RATE}", f"--held-tcp={HELD}"]
    spot = world.spot(place)
    process = subprocess.Popen(spot.launch(argv), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        begun = time.monotonic()
        yield
        time.sleep(max(0.0, begun + _LEAST_SECONDS - time.monotonic()))
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=30)
    result = json.loads(output)
    seen = [result[name] for name in ("failures", "held_lost", "held_moved")]
    assert sum(result["failed"].values()) <= failures and not any(seen[1:]), seen
    assert result["held"] == HELD and result["held_exchanges"] > 0, seen
