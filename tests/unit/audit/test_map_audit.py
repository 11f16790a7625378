# SPDX-License-Identifier: Apache-2.0
"""What the audit of the maps tells: each difference with its Service port, and counts."""

from __future__ import annotations

import errno
from typing import Any, Sequence

import pytest
import structlog

from kubeproxy_bpf.audit import maps
from kubeproxy_bpf.audit.maps import MapAudit
from kubeproxy_bpf.audit.meters import AuditMeters
from kubeproxy_bpf.dataplane import program
from kubeproxy_bpf.dataplane.fake import FakeDataplane
from kubeproxy_bpf.dataplane.program import Programmer
from kubeproxy_bpf.libbpf import LibbpfError
from kubeproxy_bpf.plan import audit as plan_audit
from kubeproxy_bpf.plan.findings import Finding
from tests.plan_objects import cluster_ip, complete, desired, ip, port_id

WEB = port_id("web")
NOW = 1700000000.0


class Audited:
    """A programmer on a fake, and its audit."""

    def __init__(self) -> None:
        self.fake = FakeDataplane()
        self.programmer = Programmer(self.fake)
        self.meters = AuditMeters()
        self.audit = MapAudit(self.programmer, 60, self.meters, wall=lambda: NOW)

    async def look(self) -> list[Any]:
        with structlog.testing.capture_logs() as logged:
            await self.audit.look()
        return list(logged)


@pytest.fixture
async def audited() -> Audited:
    made = Audited()
    await made.programmer.start()
    services = {WEB: desired([cluster_ip("10.96.0.1")], ["10.0.0.1"])}
    await made.programmer.apply(complete(services))
    await made.programmer.settled()
    return made


async def test_where_nothing_differs_nothing_is_written_or_said(audited: Audited) -> None:
    """The run is counted, and that is all."""
    audited.fake.counts.clear()
    assert await audited.look() == []
    assert not audited.fake.counts
    assert audited.meters.runs.values == {(): 1}
    assert audited.meters.last_run.values == {(): NOW}
    assert audited.meters.differences.values == {}


async def test_a_difference_is_named_counted_and_repaired(audited: Audited) -> None:
    """Map, key, kind and Service port in one line; one more says what became of all."""
    audited.fake.vips.pop(ip("10.96.0.1"))
    named, done = await audited.look()
    assert named == {
        "event": "map_differs",
        "log_level": "error",
        "map": "vips",
        "key": "10.96.0.1",
        "kind": "missing",
        "service_port": "default/web:-/TCP/IPv4",
    }
    assert (done["event"], done["differences"], done["remaining"]) == ("maps_repaired", 1, 0)
    assert audited.meters.differences.values == {("vips", "missing"): 1}
    assert audited.meters.repaired.values == {("vips", "missing"): 1}


async def test_an_emptied_map_does_not_wait_for_the_next_period(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look takes on so much and no more; where nothing can be repaired it is left at that."""
    for module in (maps, program):
        monkeypatch.setattr(module, "FINDINGS_MAX", 1)
    monkeypatch.setattr(plan_audit, "_KEYS", 1)
    ports = [port_id(f"web-{n}") for n in range(3)]
    services = {port: desired([cluster_ip(f"10.96.0.{n + 2}")], []) for n, port in enumerate(ports)}
    await audited.programmer.apply(complete(services))
    await audited.programmer.settled()
    everything = dict(audited.fake.vips)
    audited.fake.vips.clear()
    await audited.audit.look_at_all()
    assert audited.fake.vips == everything
    audited.fake.vips.clear()
    monkeypatch.setattr(audited.programmer, "repair", _nothing_repaired)
    looks = audited.meters.runs.values[()]
    await audited.audit.look_at_all()
    assert audited.meters.runs.values[()] == looks + 1


async def _nothing_repaired(found: Sequence[Finding]) -> Sequence[Finding]:
    return found


async def test_what_remains_is_said_and_not_counted_as_repaired(audited: Audited) -> None:
    """The kernel refused the write; the next plan repeats it."""
    audited.fake.frontends.clear()
    audited.fake.fail_at = audited.fake.writes
    logged = await audited.look()
    events = [each["event"] for each in logged]
    assert events == ["map_differs", "maps_repaired", "map_not_repaired"]
    assert logged[1]["remaining"] == 1
    assert audited.meters.repaired.values == {}
    assert audited.fake.frontends == {}
    await audited.programmer.apply()
    assert audited.fake.frontends != {}


async def test_maps_that_cannot_be_read_end_nothing(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again at the next time."""

    async def refuse() -> None:
        raise LibbpfError(errno.ENOMEM, "bpf_map_lookup_batch", "kpb_vips")

    monkeypatch.setattr(audited.programmer, "audit", refuse)
    (logged,) = await audited.look()
    assert logged["event"] == "maps_not_compared"
    assert audited.meters.runs.values == {(): 0}
