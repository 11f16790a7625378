# SPDX-License-Identifier: Apache-2.0
"""When the packet programs serve."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from kubeproxy_bpf.serve.devices import DeviceReading
from kubeproxy_bpf.takeover import readiness
from kubeproxy_bpf.takeover.readiness import serving, unserved

NOT_YET = DeviceReading(loaded=True)
PARTLY = DeviceReading(True, (("lo", "ingress"),), xdp_modes={"eth0": "none"})
ALL = DeviceReading(True, (("lo", "ingress"), ("eth0", "ingress")), xdp_modes={"eth0": "none"})


@pytest.mark.parametrize("reading", [DeviceReading(), NOT_YET, PARTLY])
def test_an_uplink_without_programs_is_not_served(reading):
    """Refused programs, programs that are not attached yet, an uplink that is missing."""
    assert unserved(reading)


def test_it_waits_until_nothing_is_being_attached(monkeypatch):
    """Two looks in a row see the same."""
    monkeypatch.setattr(readiness, "_LOOK_S", 0)
    first = DeviceReading(True, (("lo", "ingress"),))
    readings = [DeviceReading(), NOT_YET, first, PARTLY, ALL, ALL]
    seen = iter(readings)
    asyncio.run(serving(lambda: next(seen)))
    assert list(seen) == []


def test_it_tells_what_it_waits_for_once_and_not_at_every_start(monkeypatch):
    """A start takes some looks; a kernel that refused the packet programs takes for ever."""
    monkeypatch.setattr(readiness, "_LOOK_S", 0)
    seen = iter([DeviceReading()] * 100 + [ALL] * 2)
    with structlog.testing.capture_logs() as logs:
        asyncio.run(serving(lambda: next(seen)))
    assert [each["event"] for each in logs] == ["takeover_waits"]
    seen = iter([NOT_YET] * 10 + [ALL] * 2)
    with structlog.testing.capture_logs() as logs:
        asyncio.run(serving(lambda: next(seen)))
    assert logs == []
