# SPDX-License-Identifier: Apache-2.0
"""The process may die, stop or be there twice at any moment: connections go on, ids stay."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import contextmanager
from typing import Iterator

import pytest

from tests.fault.load.offered import under_load
from tests.fault.load.stage import ALL, Stage, service
from tests.fault.process.churn import Churn

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

TWO = frozenset({"web-1", "web-2"})
WRITTEN = (
    "kpb_vips",
    "kpb_frontends",
    "kpb_services",
    "kpb_records",
    "kpb_slots",
    "kpb_backends",
)
"""The maps that the process writes."""
LINGERS = (1 << 7).to_bytes(4, sys.byteorder)
"""An address that was a VIP: it goes when its last flow has gone, which is the sweep's time."""


def written(stage: Stage) -> dict[str, dict[bytes, bytes]]:
    """What stands in them on node1, and changes only when Services or endpoints do."""
    found = stage.maps(names=WRITTEN)
    vips = found["kpb_vips"]
    return {**found, "kpb_vips": {key: vip for key, vip in vips.items() if vip != LINGERS}}


@under_load
def test_the_process_ends_during_heavy_change(stage, long):
    """Ends, by SIGKILL and by SIGTERM in turn, and starts while Services churn: no connection
    fails."""
    with stage.load() as load, Churn(stage) as churn:
        for _ in range(20 if long else 1):
            for number in (signal.SIGKILL, signal.SIGTERM):
                time.sleep(0.7)
                stage.kill_proxy(number)
                time.sleep(0.7)
                with load.recovering():
                    stage.start_and_await()
    assert churn.changes > 50
    stage.until_answers(ALL)


@under_load
def test_changes_made_while_it_was_down_and_a_restart_without_the_api_server(stage, long):
    """With nobody to ask, the new process leaves everything as it is. When it can, it catches up:
    with endpoints that went meanwhile, and with a Service that leaves nothing stale. What did not
    change keeps its service index."""
    kept = stage.put(service("kept"))["spec"]["clusterIP"]
    gone = stage.put(service("gone"))["spec"]["clusterIP"]
    for vip in (kept, gone):
        stage.until_answers(ALL, vip)
    before = stage.maps()["kpb_frontends"]
    with stage.load() as load:
        stage.kill_proxy()
        log = len(stage.log())
        with api_server_refused(stage):
            stage.delete(service("gone"))
            stage.sandbox.scale("web", 2)
            stage.start_proxy()
            for said in ("datapath_loaded", "Cannot connect"):
                stage.until(lambda said=said: said in stage.log()[log:])
            time.sleep(60 if long else 1)
            for vip in (None, kept, gone):
                assert ALL == stage.answers(vip), "nobody follows"
            assert ALL == stage.answers(place="client")
            assert before == stage.maps()["kpb_frontends"]
        with load.changing(TWO), load.recovering():
            for vip in (None, kept):
                stage.until_answers(TWO, vip)
        stage.until(lambda: len(before) - len(stage.maps()["kpb_frontends"]) == 2)
    after = stage.maps()["kpb_frontends"]
    assert {key: before[key] for key in after} == after
    stage.delete(service("kept"))


@contextmanager
def api_server_refused(stage: Stage) -> Iterator[None]:
    """To node1 alone: the scenario itself still reaches it."""
    address, port = stage.sandbox.layout.api_server.split(":")
    rule = f"OUTPUT -p tcp -d {address} --dport {port} -j REJECT --reject-with tcp-reset"
    assert 0 == stage.sandbox.exec("node1", ["iptables", "-w", "-I", *rule.split()]).returncode
    try:
        yield
    finally:
        stage.sandbox.exec("node1", ["iptables", "-w", "-D", *rule.split()])


@under_load
def test_a_stopped_process(stage, long):
    """SIGSTOP: the old endpoints serve on; after SIGCONT all that was missed arrives."""
    with stage.load() as load:
        os.kill(stage.proxy_pid(), signal.SIGSTOP)
        try:
            stage.sandbox.scale("web", 2)
            time.sleep(60 if long else 2)
            assert ALL == stage.answers(), "nobody follows"
        finally:
            os.kill(stage.proxy_pid(), signal.SIGCONT)
        with load.changing(TWO), load.recovering():
            stage.until_answers(TWO)


@under_load
def test_a_second_process_waits_and_writes_nothing(stage):
    """One writer per instance: the second waits until the first ends, then takes over."""
    first = stage.proxy_process()
    starts = stage.starts()
    before = written(stage)
    with stage.load() as load:
        log = len(stage.log())
        stage.start_proxy()
        stage.until(lambda: "writer_awaited" in stage.log()[log:])
        assert starts == stage.starts()
        assert before == written(stage)
        first.terminate()
        assert 0 == first.wait(timeout=30)
        with load.recovering():
            stage.until(lambda: stage.starts() > starts)
    assert before == written(stage)
    assert first.pid != stage.proxy_pid()
