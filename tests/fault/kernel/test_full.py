# SPDX-License-Identifier: Apache-2.0
"""Maps that are full: it is told which and for whom, only they suffer, and it heals."""

from __future__ import annotations

from functools import partial

import pytest

from tests.fault.kernel import fillers
from tests.fault.kernel.node import NODE, KernelStage
from tests.fault.load.offered import under_load
from tests.fault.load.stage import service

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]
KEEPS_FLAGS = True

FLOWS = 8192
SCANNED = 3 * FLOWS
PER_SECOND = 350
FULL_S = 12
CLIENTS = 96
AFFINITY = 64
TABLES = (
    f"--bpf-max-flows={FLOWS}",
    f"--bpf-max-affinity={AFFINITY}",
    "--conntrack-udp-timeout=2s",
    "--conntrack-udp-timeout-stream=2s",
)


@under_load
def test_maps_of_services(stage: KernelStage) -> None:
    """Frontends, services, slots, backends: the second Service finds no room until the first goes.

    It is named in the log, in a metric of the map and in an event; all others are served.
    """
    stage.want_proxy(*fillers.flags())
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
            assert told and all(f"default/{name}-1" in line for line in told), told

    events = stage.sandbox.api.request("GET", "/apis/events.k8s.io/v1/events")["items"]
    full = {event["regarding"]["name"] for event in events if event["reason"] == "MapFull"}
    assert {f"{name}-1" for name in fillers.SIZES} <= full


@under_load
def test_the_table_of_flows(stage: KernelStage) -> None:
    """New flows are refused and counted; held connections live; room comes with time."""
    stage.want_proxy(*TABLES)
    address = stage.sandbox.layout.addresses(NODE).v4
    counter = 'kubeproxy_bpf_verdicts_total{verdict="flows_full"}'
    before = stage.metric(counter)
    with stage.load() as load:
        most = FULL_S * PER_SECOND
        load.expect(refused=most, timed_out=most, otherwise_failed=most)
        sent = stage.sandbox.run_in(
            "client", partial(fillers.scan, address, stage.node_ports[1], SCANNED)
        )
        refused = stage.metric(counter) - before
        with load.recovering():
            stage.until(lambda: _settled(stage, counter), FULL_S)

    assert sent == SCANNED
    assert 0 < refused


def _settled(stage: KernelStage, counter: str) -> bool:
    """Whether new flows find room."""
    before = stage.metric(counter)
    answers = stage.answers(place="client", times=50)
    return before == stage.metric(counter) and all(each.startswith("web-") for each in answers)


@under_load
def test_the_table_of_affinity(stage: KernelStage) -> None:
    """It forgets who came long ago: everybody is served, and who comes again at once is known."""
    stage.want_proxy(*TABLES)
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
