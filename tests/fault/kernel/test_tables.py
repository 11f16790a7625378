# SPDX-License-Identifier: Apache-2.0
"""Maps that are full: it is told which and for whom, only they suffer, and it heals."""

from __future__ import annotations

import time
from functools import partial

import pytest

from tests.fault.kernel import fillers
from tests.fault.kernel.node import NODE, KernelStage
from tests.fault.load.offered import under_load
from tests.fault.load.stage import ALL, service

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]
KEEPS_FLAGS = True

FLOWS = 8192
SCANNED = 3 * FLOWS
SETTLED_S = 1
"""One answer to a datagram is no conversation yet: held ones are asked again in that time."""
CLIENTS = 96
SMALL = (*fillers.flags(), f"--bpf-max-flows={FLOWS}", "--bpf-max-affinity=64")


def begin_small(stage: KernelStage) -> None:
    """A table that was copied into a smaller one is full of what is over until it was swept."""
    stage.want_proxy(*SMALL)
    stage.until_answers(ALL, place="client")


@under_load
def test_maps_of_services(stage: KernelStage) -> None:
    """Frontends, services, slots, backends: the second Service finds no room until the first goes.

    It is named in the log, in a metric of the map and in an event; all others are served.
    """
    begin_small(stage)
    with stage.load() as load:
        for name in fillers.SIZES:
            first, second = (fillers.fillers(name, f"{name}-{n}", n) for n in (0, 1))
            unfit = f'kubeproxy_bpf_service_ports_unfit{{map="{name}"}}'
            try:
                for manifest in (*first, *second):
                    stage.put(manifest)
                stage.until(lambda unfit=unfit: stage.metric(unfit), 20)
                with load.recovering():
                    for manifest in first:
                        stage.delete(manifest)
                    stage.until(lambda unfit=unfit: not stage.metric(unfit), 20)
            finally:
                for manifest in (*first, *second):
                    stage.delete(manifest)
            told = [line for line in stage.log().splitlines() if f"full_map={name}" in line]
            # The first may have waited a moment for what the one before it has left.
            assert any(f"default/{name}-1:" in line for line in told), told
            assert all(f"default/{name}-" in line for line in told), told

    events = stage.sandbox.api.request("GET", "/apis/events.k8s.io/v1/events")["items"]
    full = {event["regarding"]["name"] for event in events if event["reason"] == "MapFull"}
    assert {f"{name}-1" for name in fillers.SIZES} <= full


@under_load
def test_the_table_of_flows(stage: KernelStage) -> None:
    """Of a scan that fills it one flow gives way for each new one; all others live."""
    begin_small(stage)
    address = stage.sandbox.layout.addresses(NODE).v4
    recycled = 'kubeproxy_bpf_verdicts_total{reason="flows_recycled"}'
    before = stage.metric(recycled)
    with stage.load() as load:
        time.sleep(SETTLED_S)
        scan = partial(fillers.scan, address, stage.node_ports[1], SCANNED)
        sent = stage.sandbox.run_in("client", scan)
        with load.recovering():
            stage.until(lambda: stage.metric(recycled) > before)

    assert sent == SCANNED
    assert stage.metric(recycled) - before > FLOWS / 4


@under_load
def test_the_table_of_affinity(stage: KernelStage) -> None:
    """It forgets who came long ago: everybody is served, and who comes again at once is known."""
    stage.want_proxy("--bpf-max-affinity=64")  # a full table of flows is another matter
    stage.until_answers(ALL, place="client")
    sticky = service("sticky", type="NodePort", sessionAffinity="ClientIP")
    port = stage.put(sticky)["spec"]["ports"][0]["nodePort"]
    layout = stage.sandbox.layout
    network = layout.client.v4.rpartition(".")[0]
    sources = [f"{network}.{100 + number}" for number in range(CLIENTS)]
    stage.ip("\n".join(f"addr add {each}/24 dev eth0" for each in sources), "client")
    address = layout.addresses(NODE).v4
    try:
        stage.until(lambda: stage.ask("client", address, port).startswith("web-"))
        with stage.load():
            asked = partial(fillers.faithful, sources, address, port)
            answers = stage.sandbox.run_in("client", asked)
    finally:
        stage.ip("\n".join(f"addr del {each}/24 dev eth0" for each in sources), "client")
        stage.delete(sticky)

    assert {1} == set(map(len, answers.values())), answers
    assert 1 < len(set.union(*answers.values()))
