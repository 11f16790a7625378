# SPDX-License-Identifier: Apache-2.0
"""Audit and repair beside other plans: none holds the other up, or mistakes it for a difference."""

from __future__ import annotations

import asyncio
import errno

import pytest

from kubeproxy_bpf.dataplane import program
from kubeproxy_bpf.dataplane.fake import FakeDataplane
from kubeproxy_bpf.dataplane.program import Programmer
from kubeproxy_bpf.libbpf import LibbpfError
from kubeproxy_bpf.plan import audit
from kubeproxy_bpf.plan.findings import Kind
from kubeproxy_bpf.plan.held import HeldDump
from kubeproxy_bpf.plan.records import Frontend, SourceRange, SourceRangeKey
from tests.plan_objects import cluster_ip, complete, desired, ip, port_id, prefixes

SERVICES = {
    port_id(f"s{i}"): desired(
        [cluster_ip(f"10.96.{i >> 8}.{i & 255}")], [f"10.0.{i >> 8}.{i & 255}"]
    )
    for i in range(1, 600)
}


@pytest.fixture
async def fake() -> FakeDataplane:
    return FakeDataplane()


@pytest.fixture
async def programmer(fake: FakeDataplane) -> Programmer:
    made = Programmer(fake)
    await made.start()
    await made.apply(complete(SERVICES))
    await made.settled()
    return made


async def test_changes_during_an_audit_are_no_differences(programmer: Programmer) -> None:
    """Services come, change and go while it walks."""
    walking = asyncio.create_task(programmer.audit())
    rounds = 0
    while not walking.done():
        rounds += 1
        some = dict(list(SERVICES.items())[rounds % 300 :: 2])
        await programmer.apply(complete(some))
        await asyncio.sleep(0)
    assert await walking == []
    assert rounds > 3


async def test_an_audit_never_holds_the_lock_for_long(programmer: Programmer) -> None:
    """A plan gets its turn between any two steps."""
    walking = asyncio.create_task(programmer.audit())
    await asyncio.sleep(0)
    await programmer.apply(complete(SERVICES))
    assert not walking.done()
    await walking


async def test_replacements_are_repaired_a_few_at_a_time(
    programmer: Programmer, fake: FakeDataplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them waits for a grace period: a change does not wait for all of them."""
    plans = []
    monkeypatch.setattr(program, "_BATCH_OF_GRACES", 4)
    execute = fake.execute
    monkeypatch.setattr(fake, "execute", lambda plan: plans.append(plan) or execute(plan))
    for key in list(fake.frontends)[:10]:
        fake.frontends[key] = Frontend(4000, 1, 0)
    found = await programmer.audit()
    assert {finding.kind for finding in found} == {Kind.DIFFERS} and len(found) == 10

    assert await programmer.repair(found) == []

    assert [len(plan.frontends_replaced) for plan in plans if plan.frontends_replaced] == [4, 4, 2]


async def test_more_than_a_repair_takes_on_is_left_for_the_next_time(
    programmer: Programmer, fake: FakeDataplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An emptied map ends the walk early; what is found is repaired, the rest found again."""
    monkeypatch.setattr(program, "FINDINGS_MAX", 100)
    monkeypatch.setattr(audit, "_KEYS", 50)
    fake.vips.clear()
    rounds = 0
    while found := await programmer.audit():
        rounds += 1
        assert len(found) <= 100
        assert await programmer.repair(found) == []
    assert rounds == 6 and len(fake.vips) == len(SERVICES) + 1


async def test_what_is_no_more_true_is_not_repaired(
    programmer: Programmer, fake: FakeDataplane
) -> None:
    """A plan may have written it anew since it was found."""
    key = next(iter(fake.frontends))
    entry = fake.frontends.pop(key)
    found = await programmer.audit()
    fake.frontends[key] = entry
    fake.counts.clear()
    assert await programmer.repair(found) == []
    assert not fake.counts


@pytest.mark.parametrize("wrong", [10, 1000])
async def test_a_trie_is_read_once_for_a_repair(
    programmer: Programmer, fake: FakeDataplane, monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    """However many of its entries are wrong: the kernel gives single ones to nobody."""
    ranges = prefixes(*(f"172.16.{i >> 8}.{i & 255}/32" for i in range(300)))
    some = next(iter(SERVICES))
    await programmer.apply(
        complete({**SERVICES, some: SERVICES[some]._replace(source_ranges=ranges)})
    )
    entries = dict(fake.source_ranges)
    assert len(entries) == 300
    for key in list(entries)[: wrong // 5]:
        del fake.source_ranges[key]
    for i in range(wrong):
        key = SourceRangeKey(160, 77, ip(f"198.18.{i >> 8}.{i & 255}"))
        fake.source_ranges[key] = SourceRange(1)
    found = await programmer.audit()
    assert len(found) == wrong + wrong // 5
    reads = []
    lookup = HeldDump.lookup

    def counted(self: HeldDump, name: str, keys: object) -> object:
        reads.append(name)
        return lookup(self, name, keys)

    monkeypatch.setattr(HeldDump, "lookup", counted)
    assert await programmer.repair(found) == []
    assert reads == ["source_ranges"]
    assert fake.source_ranges == entries


@pytest.mark.parametrize("answers", [0, 1])
async def test_a_repair_that_cannot_be_looked_at_ends_nothing(
    programmer: Programmer, fake: FakeDataplane, monkeypatch: pytest.MonkeyPatch, answers: int
) -> None:
    """Before it is made it is left for the next time; after it nothing is called repaired."""
    entries = dict(fake.vips)
    key = next(iter(entries))
    del fake.vips[key]
    found = await programmer.audit()
    lookup, left = HeldDump.lookup, iter(range(answers))

    def out_of_memory(self: HeldDump, name: str, keys: list[object]) -> object:
        if next(left, None) is None:
            raise LibbpfError(errno.ENOMEM, "bpf_map_lookup_elem", name)
        return lookup(self, name, keys)

    with monkeypatch.context() as patched:
        patched.setattr(HeldDump, "lookup", out_of_memory)
        assert await programmer.repair(found) == found
    assert (fake.vips == entries) == (answers > 0)
    assert await programmer.repair(await programmer.audit()) == []
    assert fake.vips == entries
