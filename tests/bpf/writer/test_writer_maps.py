# SPDX-License-Identifier: Apache-2.0
"""The writer on real maps: it does what the fake does, and errors of the kernel come back."""

from __future__ import annotations

from typing import Any

import pytest

from kubeproxy_bpf.dataplane import membarrier
from kubeproxy_bpf.dataplane.fake import FakeDataplane
from kubeproxy_bpf.dataplane.program import Programmer
from kubeproxy_bpf.dataplane.quarantine import Grace
from kubeproxy_bpf.dataplane.trace import dump_text
from kubeproxy_bpf.errors import MapFull
from kubeproxy_bpf.model.types import Changes
from kubeproxy_bpf.plan.records import Frontend, FrontendKey
from kubeproxy_bpf.plan.writes import Plan
from tests.plan_objects import cluster_ip, complete, desired, external_ip, ip, node_port, port_id

pytestmark = pytest.mark.root

WEB, API = port_id("web"), port_id("api")
SHARED = external_ip("203.0.113.1")
STEPS = [
    complete(
        {
            WEB: desired([cluster_ip("10.96.0.1"), SHARED], ["10.0.0.1", "10.0.0.2"], 10),
            API: desired([cluster_ip("10.96.0.2"), node_port(30000)], ["10.0.0.2"], local=1),
        }
    ),
    Changes(
        {
            WEB: desired([cluster_ip("10.96.0.1")], ["10.0.0.3"]),
            API: desired([cluster_ip("10.96.0.2"), SHARED], ["10.0.0.2"]),
        },
        {ip("203.0.113.1"): 3},
    ),
    Changes({WEB: None}, {ip("10.96.0.1"): 0}),
]


async def test_the_writer_does_what_the_fake_does(kernel: Any) -> None:
    """After every step, and after a restart, both hold the same entries."""
    writer = kernel.writer()
    fake = FakeDataplane(writer.capacity)
    both = [Programmer(writer), Programmer(fake)]
    try:
        for changes in STEPS:
            for programmer in both:
                await programmer.start()
                await programmer.apply(changes)
                await programmer.settled()
            assert fake.dump_text() == dump_text(await writer.dump())
    finally:
        writer.close()


async def test_a_full_map_comes_back_with_its_key(kernel: Any) -> None:
    """All that fits is written, the rest is named, and nothing is raised."""
    writer = kernel.writer()
    room = writer.capacity.frontends
    entries = [(FrontendKey(ip("10.96.0.1"), n, 6), Frontend(1, 1, 0)) for n in range(room + 3)]
    try:
        applied = await writer.apply(Plan(1, frontends_added=entries))
        held = len((await writer.dump()).frontends)
    finally:
        writer.close()

    assert held >= room and len(applied.failed) == len(entries) - held > 0
    assert {True} == {isinstance(failed.error, MapFull) for failed in applied.failed}


async def test_removing_what_is_not_there_succeeds(kernel: Any) -> None:
    """Writes are idempotent."""
    writer = kernel.writer()
    try:
        plan = Plan(1, vips_removed=[ip("10.96.0.1")], ports_cleared={0: 0})
        applied = await writer.apply(plan)
    finally:
        writer.close()

    assert () == applied.failed


async def test_a_map_of_maps_waits_where_membarrier_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other way to a grace period works in this kernel too."""
    monkeypatch.setattr(membarrier, "wait_for_readers", lambda: False)
    grace = Grace()
    mark = grace.mark()
    try:
        await grace.wait()
        assert grace.passed(mark)
        await grace.wait()
    finally:
        grace.close()


async def test_plans_go_on_where_the_cheap_barrier_is_refused(
    kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grace period orders stores as well."""
    monkeypatch.setattr(membarrier, "order_stores", lambda: False)
    writer = kernel.writer()
    programmer = Programmer(writer)
    try:
        await programmer.start()
        outcome = await programmer.apply(STEPS[0])
    finally:
        writer.close()

    assert outcome.clean
