# SPDX-License-Identifier: Apache-2.0
"""The table of flows on real sockets, through a real proxy process in a sandbox.

Every row runs in each way to open a socket: IPv4 or IPv6, IPv4 through an IPv6 socket, and for UDP
connected and not. ``tests/flows/test_trace.py`` runs the same rows on planned maps.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Iterator

import pytest

from kubeproxy_bpf.sandbox.cluster import Options, Sandbox
from tests.e2e.flows.ways import Seen, Way, dial, ways_of
from tests.e2e.flows.world import NODE, PLACES, made_real, proxy_command
from tests.flows.table import FLOWS, Client, Flow, Outcome

pytestmark = pytest.mark.root

TIMES = 40
"""Connections per row: one of two backends stays unseen once in 10^12 runs."""

ERRNO = {Outcome.REFUSED: "ECONNREFUSED", Outcome.UNREACHABLE: "EHOSTUNREACH"}
PLANNED_ONLY = [flow for flow in FLOWS if flow.protocol not in ("TCP", "UDP")]
"""SCTP: a module that many kernels do not have, nor does the responder speak it."""

TIMED_OUT = {("TCP", "10.96.0.99", 80), ("TCP", "198.51.100.10", 80)}
"""What sockets leave alone meets the packet path, which drops it [H2, F6] …"""
SERVED_BY_PACKET = ("TCP", "10.96.0.1", 80)
"""… or serves it, as for a loopback source no backend of the sockets is fit."""

WITHOUT_DETECTOR = [
    flow for flow in FLOWS if flow.client is not Client.DETECTED_POD and flow not in PLANNED_ONLY
]
WITH_DETECTOR = [flow for flow in FLOWS if flow.client is Client.DETECTED_POD]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """The world of the table, before any proxy runs in it."""
    options = Options(proxy=False, api_flags=("--admin", "--no-validation"))
    with Sandbox.up(f"kpbt-table-{os.getpid()}", "routed", options) as sandbox, made_real(sandbox):
        yield sandbox


@pytest.fixture(scope="module")
def undetected(sandbox: Sandbox) -> Sandbox:
    """A proxy on the rows' node that cannot tell which sources are local pods."""
    return _with_proxy(sandbox, detector=False)


@pytest.fixture(scope="module")
def detected(sandbox: Sandbox) -> Sandbox:
    """The same with a local detector; it takes over from the one without."""
    return _with_proxy(sandbox, detector=True)


def _with_proxy(sandbox: Sandbox, detector: bool) -> Sandbox:
    before = sandbox._started.pop(f"kube-proxy-{NODE}", None)
    if before is not None:
        before.terminate()
        before.wait(timeout=10)
    sandbox.start_proxy(NODE, proxy_command(detector))
    sandbox.wait_ready()
    return sandbox


def test_every_row_runs_but_the_one_that_is_named() -> None:
    """All rows of the table run on real sockets, except those that are listed with a reason."""
    assert [(flow.protocol, flow.address, flow.port) for flow in PLANNED_ONLY] == [
        ("SCTP", "10.96.0.1", 36412)
    ]
    assert len(WITHOUT_DETECTOR) + len(WITH_DETECTOR) + 1 == len(FLOWS)


@pytest.mark.parametrize("flow", WITHOUT_DETECTOR, ids=str)
def test_flow_ends_where_the_table_says(flow: Flow, undetected: Sandbox) -> None:
    """Each row, in each way to open a socket: exactly these answer, or exactly this happens."""
    _run(flow, undetected)


@pytest.mark.parametrize("flow", WITH_DETECTOR, ids=str)
def test_flow_of_detected_pod_ends_where_the_table_says(flow: Flow, detected: Sandbox) -> None:
    """The rows of a pod that the proxy knows as local, which skips external traffic policies."""
    _run(flow, detected)


def _run(flow: Flow, sandbox: Sandbox) -> None:
    source = "127.0.0.1" if flow.client is Client.HOST_LOOPBACK else ""
    if source and (flow.protocol, flow.address, flow.port) == SERVED_BY_PACKET:
        flow = flow._replace(expected=_backends_of(flow))
    expected = flow.expected
    ways = ways_of(flow.protocol, flow.address)

    def connect() -> dict[Way, set[Seen]]:
        times = range(1 if isinstance(expected, Outcome) else TIMES)

        def often(way: Way) -> set[Seen]:
            return {dial(way, flow.address, flow.port, source) for _ in times}

        # All at once: some wait in vain.
        with ThreadPoolExecutor(len(ways)) as pool:
            return dict(zip(ways, pool.map(often, ways)))

    for way, seen in sandbox.run_in(PLACES[flow.client], connect).items():
        assert seen == _expected(flow), way


def _backends_of(flow: Flow) -> frozenset[str]:
    """Who answers the host at the same address."""
    (same,) = {
        other.expected
        for other in FLOWS
        if (other.client, *other[2:5]) == (Client.HOST, flow.protocol, flow.address, flow.port)
    }
    assert isinstance(same, frozenset)
    return same


def _expected(flow: Flow) -> set[Seen]:
    dialled = (flow.address, flow.port)
    if flow.expected is Outcome.LEFT_ALONE:
        if (flow.protocol, *dialled) in TIMED_OUT:
            return {Seen("timeout")}
        return {Seen(_text(*dialled), dialled)}
    if isinstance(flow.expected, Outcome):
        return {Seen(ERRNO[flow.expected])}
    return {Seen(backend, dialled) for backend in flow.expected}


def _text(address: str, port: int) -> str:
    return f"{address} {port}" if ":" in address else f"{address}:{port}"
