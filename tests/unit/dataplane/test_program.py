# SPDX-License-Identifier: Apache-2.0
"""The programmer on the fake: graces, retries, and what it tells."""

from __future__ import annotations

from kubeproxy_bpf.dataplane.fake import FakeDataplane
from kubeproxy_bpf.dataplane.program import Outcome, Programmer
from kubeproxy_bpf.dataplane.protocol import Applied
from kubeproxy_bpf.dataplane.trace import HOST, POD, Client, Reason
from kubeproxy_bpf.model.types import Changes, ServicePortId
from kubeproxy_bpf.plan.records import BackendFlags, VipFlags
from kubeproxy_bpf.plan.writes import Plan
from tests.plan_objects import (
    PACKETS,
    SMALL,
    cluster_ip,
    complete,
    desired,
    endpoint,
    ip,
    node_port,
    port_id,
)

WEB, API = port_id("web"), port_id("api")


async def test_room_that_appears_is_used_without_being_asked() -> None:
    """What did not fit is programmed after the grace period that makes room, and told."""
    fake, told = FakeDataplane(SMALL._replace(services=2)), list[Outcome]()
    programmer = Programmer(fake, told.append)
    await programmer.start()
    web = desired([cluster_ip("10.96.0.1")], ["10.0.0.1"])
    api = desired([cluster_ip("10.96.0.2")], ["10.0.0.2"])
    await programmer.apply(complete({WEB: web}))
    refused = await programmer.apply(Changes({API: api}, {}))
    await programmer.apply(Changes({WEB: None}, {}))
    await programmer.settled()

    assert ((API, "services"),) == refused.unfit
    assert told[-1].clean
    assert [ip("10.96.0.2")] == [key.address for key in fake.frontends]


async def test_a_refused_write_is_repeated() -> None:
    """The outcome names it, and the next apply heals it."""
    fake = FakeDataplane(SMALL)
    programmer = Programmer(fake)
    await programmer.start()
    fake.fail_at = 4  # the frontend: after backend, slots, record and word

    first = await programmer.apply(
        complete({WEB: desired([cluster_ip("10.96.0.1")], ["10.0.0.1"])})
    )
    second = await programmer.apply()

    assert (["frontends"], True) == ([write.map for write in first.failed], second.clean)
    assert 1 == len(fake.frontends)


async def test_a_new_programmer_goes_on_where_the_last_one_ended() -> None:
    """A restart writes nothing."""
    fake = FakeDataplane(SMALL)
    changes = complete({WEB: desired([cluster_ip("10.96.0.1")], ["10.0.0.1"])})
    writes = []
    for _ in range(2):
        programmer = Programmer(fake)
        await programmer.start()
        writes.append((await programmer.apply(changes)).writes)

    assert (True, 0) == (writes[0] > 0, writes[1])


async def test_the_tracer_decides_as_programs_do() -> None:
    """Loopback, node ports, unknown ports and loopback sources."""
    fake = FakeDataplane(SMALL)
    programmer = Programmer(fake)
    await programmer.start()
    host = endpoint("192.0.2.1", flags=int(BackendFlags.HOST))
    wanted = desired([cluster_ip("10.96.0.1"), node_port(30000)], ["10.0.0.1", "10.0.0.2"])
    mixed = wanted._replace(backends=(wanted.backends[0], host))
    vips = complete({WEB: mixed}).vips
    loopback = {ip("127.0.0.1"): int(VipFlags.NODE_PORT | VipFlags.LOOPBACK)}
    await programmer.apply(Changes({WEB: mixed}, {**vips, **loopback}, True))

    def reason(client: Client, address: str, port: int) -> Reason:
        return fake.trace(client, ip(address), port, 6).reason

    bound = Client(host=True, loopback_source=True)
    assert Reason.TRANSLATED == reason(HOST, "127.3.2.1", 30000)
    assert Reason.NONE == reason(POD, "127.0.0.1", 30000)
    assert Reason.UNKNOWN_PORT == reason(POD, "10.96.0.1", 81)
    assert Reason.NONE == reason(POD, "192.0.2.1", 31000)
    assert {("192.0.2.1", 8080)} == fake.trace(bound, ip("10.96.0.1"), 80, 6).backends


async def test_what_lingers_is_told_and_forgotten() -> None:
    """A sweeper asks, looks, and hands back what it may; the room is used at once."""
    fake, told = FakeDataplane(PACKETS._replace(vips=2)), list[Outcome]()
    programmer = Programmer(fake, told.append)
    await programmer.start()
    old, kept, new = (ip(f"10.96.0.{n}") for n in range(1, 4))
    flags = int(VipFlags.CLUSTER_IP)
    await programmer.apply(Changes({}, {old: flags, kept: flags}))
    await programmer.apply(Changes({}, {old: 0, kept: 0}))
    seen = programmer.lingering
    assert [old, kept] == list(seen)

    outcome = await programmer.forget({old: seen[old]})
    await programmer.settled()
    assert (1, [kept]) == (outcome.writes, list(programmer.lingering))
    await programmer.apply(Changes({}, {new: flags}))
    assert {kept: int(VipFlags.LINGER), new: flags} == fake.vips
    assert seen == {old: seen[old], kept: seen[kept]}  # a copy: later plans do not change it


async def test_an_owner_is_told_only_once_its_counts_are_its_own() -> None:
    """Whoever reads counts meanwhile must not give those of the last owner to the next."""
    seen: list[list[ServicePortId]] = []

    class Watched(FakeDataplane):
        async def apply(self, plan: Plan) -> Applied:
            seen.append([*programmer.owners.values()])
            return await super().apply(plan)

    programmer = Programmer(Watched(SMALL))
    await programmer.start()
    web = desired([cluster_ip("10.96.0.1")], ["10.0.0.1"])
    await programmer.apply(complete({WEB: web}))
    before = programmer.owners
    await programmer.apply(Changes({WEB: None, API: web}, {}))

    assert [[], [WEB]] == seen
    assert ([WEB], [API]) == ([*before.values()], [*programmer.owners.values()])
