# SPDX-License-Identifier: Apache-2.0
"""The table of flows on planned maps in memory: model, planner and tracer in one go."""

from __future__ import annotations

import errno

import pytest

from kubeproxy_bpf.dataplane import trace
from kubeproxy_bpf.dataplane.fake import DEFAULT_CAPACITY, FakeDataplane
from kubeproxy_bpf.model.services import PROTOCOLS
from kubeproxy_bpf.plan.planner import Planner
from tests.fix_objects import ip
from tests.flows.table import FLOWS, WORLD, Client, Flow, Outcome
from tests.golden.scenario import Scenario, documents

CLIENTS = {
    Client.POD: trace.Client(),
    Client.DETECTED_POD: trace.Client(shortcut=True),
    Client.HOST: trace.Client(host=True),
    Client.HOST_LOOPBACK: trace.Client(host=True, loopback_source=True),
}
ERRNO = {
    Outcome.REFUSED: errno.ECONNREFUSED,
    Outcome.UNREACHABLE: errno.EHOSTUNREACH,
    Outcome.LEFT_ALONE: 0,
}


@pytest.fixture(scope="module")
def dataplane() -> FakeDataplane:
    """The whole world, planned and written."""
    scenario = Scenario()
    for document in documents(WORLD.read_text()):
        scenario.apply(document)
    made = FakeDataplane()
    applied = made.execute(Planner(DEFAULT_CAPACITY).plan(scenario.model.take().changes))
    assert not applied.failed
    return made


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_flow_ends_where_the_table_says(flow: Flow, dataplane: FakeDataplane) -> None:
    """Each row: exactly these backends may answer, or exactly this happens instead."""
    verdict = dataplane.trace(
        CLIENTS[flow.client], ip(flow.address), flow.port, PROTOCOLS[flow.protocol]
    )
    if isinstance(flow.expected, Outcome):
        assert not verdict.backends
        assert verdict.errno == ERRNO[flow.expected]
    else:
        assert {_text(*backend) for backend in verdict.backends} == flow.expected


def _text(address: str, port: int) -> str:
    return f"{address} {port}" if ":" in address else f"{address}:{port}"
