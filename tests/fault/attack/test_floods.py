# SPDX-License-Identifier: Apache-2.0
"""Floods from forged sources, under load: who lives goes on, the table holds, answers are few."""

from __future__ import annotations

from random import Random

import pytest

from kubeproxy_bpf.libbpf import BpfMap, possible_cpus
from tests.bpf.fuzz import craft
from tests.bpf.fuzz.craft import TCP, UDP, Ends, packed, packet
from tests.fault.load.offered import under_load
from tests.fault.load.stage import Stage, service

from .proxy_flags import FLOWS
from .wire import Attacker

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

ANSWERS_PER_S = 1000
"""For each processor (docs/packet-settings.md)."""


def forged(attacker: Attacker, port: int, protocol: int, count: int) -> list[bytes]:
    """As many openers, each from an address and a port of its own."""
    dice = Random(count)
    found = []
    for _ in range(count):
        source = bytes([203, 0, 113, dice.randrange(1, 255)])
        ends = Ends(source, dice.randrange(1024, 65536), packed(attacker.node.v4), port)
        segment = craft.tcp(ends) if protocol == TCP else craft.udp(ends, b"name\n")
        found.append(packet(ends, protocol, segment))
    return found


def fill(stage: Stage) -> int:
    """Entries of the flow table of node1, or a few more: they come and go meanwhile."""
    (pinned,) = stage.sandbox.pin_path("node1").glob("*/kpb_flows")
    with BpfMap.open_pinned(pinned) as flows:
        return sum(1 for _ in flows.keys())


@under_load
@pytest.mark.parametrize("protocol", (TCP, UDP), ids=("syn", "udp"))
def test_a_flood_hurts_nobody_else(
    stage: Stage, attacker: Attacker, protocol: int, long: bool
) -> None:
    """The table is full of flows that nobody answers or goes on with; no connection is lost,
    neither to this node port nor to other Services, and new ones come through."""
    port = stage.node_ports[protocol == UDP]
    count = FLOWS if protocol == TCP else FLOWS // 2
    packets = forged(attacker, port, protocol, count)
    seconds = 30.0 if long else 3.5
    with stage.load() as load:
        volley = attacker.flood(packets, int(count / 3), seconds)
        print(volley)
        assert fill(stage) > FLOWS * 0.9, "the flood did not fill the table"
        with load.recovering():
            stage.until_answers(load.allowed.now, place="client")


@pytest.mark.parametrize("protocol", (TCP, UDP), ids=("reset", "unreachable"))
def test_refusals_are_few_and_small(stage: Stage, attacker: Attacker, protocol: int) -> None:
    """No more answers than the limit has it, none larger than headers and a short quote, and all
    together less than what came."""
    made = stage.put(service("hollow", type="NodePort", selector={"app": "nobody"}))
    port = made["spec"]["ports"][protocol == UDP]["nodePort"]
    packets = forged(attacker, port, protocol, 4096)
    stage.until(lambda: attacker.flood(packets[:200], 1000, 0.2).answers)
    seconds = 2.0
    volley = attacker.flood(packets, 12_000, seconds)
    print(volley)
    most = ANSWERS_PER_S * possible_cpus() * (seconds + 1.5)
    assert volley.sent > most, "the flood did not come to the limit"
    assert 0 < volley.answers <= most, volley
    assert volley.answer_bytes < volley.sent_bytes, volley
    each = volley.answer_bytes / volley.answers
    assert each <= 14 + 20 + (20 if protocol == TCP else 8 + 20 + 64), volley
