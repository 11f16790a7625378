# SPDX-License-Identifier: Apache-2.0
"""The table of packets on planned maps in memory: model, planner and packet tracer in one go."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from kubeproxy_bpf.dataplane import trace_packet
from kubeproxy_bpf.dataplane.fake import DEFAULT_CAPACITY, FakeDataplane
from kubeproxy_bpf.dataplane.trace_packet import Arrival, Facts, Packet, Reason
from kubeproxy_bpf.model.services import PROTOCOLS
from kubeproxy_bpf.plan.planner import Planner
from tests.fix_objects import ip
from tests.flows.packets import (
    PACKET_FLOWS,
    SERVICE_CIDRS,
    Outcome,
    PacketFlow,
    Sender,
    Target,
    Way,
)
from tests.flows.settings import config_flags, detected_networks
from tests.flows.table import WORLD
from tests.golden.scenario import Scenario, documents

ARRIVALS = dict.fromkeys((Sender.HOST, Sender.HOST_LOOPBACK), Arrival.HOST) | dict.fromkeys(
    (Sender.POD, Sender.STRAY_POD, Sender.BACKEND), Arrival.POD
)
OUTCOMES = {
    Outcome.REJECTED: (Reason.NO_ENDPOINTS, Reason.UNKNOWN_PORT),
    Outcome.DROPPED: (Reason.NO_LOCAL_ENDPOINT, Reason.UNUSED_ADDRESS, Reason.SOURCE_RANGES),
    Outcome.LEFT_ALONE: (Reason.NONE, Reason.ON_DEVICE, Reason.SCTP_PORT),
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


def _network(text: str) -> tuple[bytes, bytes]:
    network = ip_network(text)
    return ip(str(network.network_address)), network.netmask.packed.rjust(16, b"\xff")


@pytest.mark.parametrize("flow", PACKET_FLOWS, ids=str)
def test_flow_ends_where_the_table_says(flow: PacketFlow, dataplane: FakeDataplane) -> None:
    """Each row: exactly these targets may get the flow, or exactly this happens instead."""
    source = ip_address(flow.source)
    detected = detected_networks(flow.options)
    packet = Packet(
        ARRIVALS.get(flow.sender, Arrival.OUTSIDE),
        ip(flow.source),
        ip(flow.address),
        flow.port,
        PROTOCOLS[flow.protocol],
        any(source in ip_network(text) for text in detected),
    )
    facts = Facts(
        config_flags(flow.options),
        [_network(text) for text in SERVICE_CIDRS],
        [_network(text) for text in detected],
    )
    verdict = trace_packet.trace_packet(dataplane, facts, packet)
    if isinstance(flow.expected, Outcome):
        assert verdict.reason in OUTCOMES[flow.expected]
        assert verdict.reason.value == flow.counter.lower()
        assert not verdict.choices
    else:
        assert verdict.reason is Reason.TRANSLATED
        assert {_target(choice) for choice in verdict.choices} == flow.expected


def _target(choice: trace_packet.Choice) -> Target:
    separator = " " if ":" in choice.address else ":"
    backend = f"{choice.address}{separator}{choice.port}"
    return Target(backend, Way[choice.way.name], choice.masqueraded)
