# SPDX-License-Identifier: Apache-2.0
"""The sync loop with the real model, planner and programmer on maps in memory."""

import asyncio
from contextlib import asynccontextmanager

import pytest
import structlog

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.api.objects import (
    EndpointSlice,
    EndpointTraits,
    Ingress,
    Service,
    ServicePort,
    SlicePort,
)
from kubeproxy_bpf.dataplane.fake import FakeDataplane
from kubeproxy_bpf.dataplane.program import Outcome, Programmer
from kubeproxy_bpf.meters import SyncMeters
from kubeproxy_bpf.model.cluster import ClusterModel
from kubeproxy_bpf.model.facts import ModelConfig
from kubeproxy_bpf.plan.writes import Capacity, Failed
from kubeproxy_bpf.sync import SyncLoop

SMALL = Capacity(vips=64, frontends=64, services=16, records=32, slots=256, backends=64)
READY = EndpointTraits(True, True, False, "n1", frozenset(), frozenset())


def service(name, ip="10.96.0.1"):
    return Service(
        "ns", name, "u", "", "ClusterIP", ip, (ip,), ("IPv4",),
        (ServicePort("", "TCP", 80, 0),), (), (), (), "Cluster", "Cluster", "None", 0, 0, None, (),
    )  # fmt: skip


def endpoints(name, *addresses):
    ports = (SlicePort("", "TCP", 8080),)
    packed = tuple(parse_address(address) for address in addresses)
    return EndpointSlice("ns", name, name, False, "IPv4", ports, packed, (READY,) * len(addresses))


class Parts:
    def __init__(self, capacity=SMALL, retry_s=0.01, before=None):
        self.model = ClusterModel(ModelConfig("n1"))
        self.dataplane = FakeDataplane(capacity)
        self.programmer = Programmer(self.dataplane, lambda outcome: self.loop.note(outcome))
        self.finished = asyncio.Event()
        self.unfit = []
        self.meters = SyncMeters(("IPv4",))
        self.loop = SyncLoop(
            self.model,
            self.programmer,
            min_interval_s=0.0,
            retry_s=retry_s,
            before=before,
            on_finished=self.note_finished,
            on_unfit=lambda port, full_map: self.unfit.append((port.name, full_map)),
            meters=self.meters,
        )

    async def note_finished(self):
        self.finished.set()

    async def sync(self):
        self.finished.clear()
        self.loop.wake()
        async with asyncio.timeout(10):
            await self.finished.wait()
            await self.programmer.settled()


@asynccontextmanager
async def running(**options):
    parts = Parts(**options)
    await parts.programmer.start()
    task = asyncio.create_task(parts.loop.run())
    try:
        yield parts
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await parts.programmer.close()


@pytest.fixture
def events():
    with structlog.testing.capture_logs() as captured:
        yield captured


async def test_a_change_is_programmed_when_the_loop_is_woken():
    """Model to maps in one turn of the loop."""
    async with running() as parts:
        parts.model.set_service(service("web"))
        parts.model.set_slice(endpoints("web", "10.0.0.1", "10.0.0.2"))
        parts.model.mark_complete()
        await parts.sync()

        assert 1 == len(parts.dataplane.frontends)
        assert 2 == sum(1 for backend in parts.dataplane.backends.values() if backend.flags & 1)


async def test_a_refused_write_is_repeated_by_itself(events):
    """K11: nobody has to change anything for a failed sync to be tried again."""
    async with running() as parts:
        parts.model.set_service(service("web"))
        parts.model.set_slice(endpoints("web", "10.0.0.1"))
        parts.model.mark_complete()
        parts.dataplane.fail_at = 4  # backend, slots, record, service word, then the frontend
        await parts.sync()

        assert 1 == len(parts.dataplane.frontends)
        assert "write_refused" in {event["event"] for event in events}


async def test_what_is_taken_is_told_once_and_before_it_is_programmed():
    """What a refused write repeats is in no later step; the end is told when all is written."""
    told = []
    async with running() as parts:

        def taken(step):
            told.append((len(step.changes.services), len(parts.dataplane.frontends)))

        parts.loop._on_taken = taken
        parts.model.set_service(service("web"))
        parts.model.set_slice(endpoints("web", "10.0.0.1"))
        parts.model.mark_complete()
        parts.dataplane.fail_at = 4
        await parts.sync()

        assert [(1, 0), (0, 0)] == told
        assert 1 == len(parts.dataplane.frontends)


async def test_a_service_that_does_not_fit_is_named_and_heals(events):
    """A full map affects the Service that did not fit, by name, until room appears."""
    async with running(capacity=SMALL._replace(slots=4)) as parts:
        parts.model.set_service(service("small", "10.96.0.1"))
        parts.model.set_slice(endpoints("small", "10.0.0.1", "10.0.0.2"))
        parts.model.set_service(service("large", "10.96.0.2"))
        parts.model.set_slice(endpoints("large", "10.0.0.3", "10.0.0.4"))
        parts.model.mark_complete()
        await parts.sync()

        unfit = [event for event in events if event["event"] == "service_port_unfit"]
        assert 1 == len(unfit)
        assert "slots" == unfit[0]["full_map"]
        loser = "large" if "large" in unfit[0]["service_port"] else "small"
        winner = {"large": "small", "small": "large"}[loser]

        parts.model.remove_service(service(winner).key)
        await parts.sync()

        assert "service_port_fits_again" in {event["event"] for event in events}
        assert [] == list(parts.programmer.planner.waiting)


async def test_what_has_no_room_is_named_once_while_others_change(events):
    """Changes of another Service neither repeat the news nor claim that it fits."""
    async with running() as parts:  # without a packet path there is no room for source ranges
        filtered = service("web")._replace(
            type="LoadBalancer",
            ingress=(Ingress("198.51.100.1", "VIP"),),
            source_ranges=("192.0.2.0/24",),
        )
        parts.model.set_service(filtered)
        parts.model.mark_complete()
        await parts.sync()
        parts.model.set_service(service("other", "10.96.0.2"))
        await parts.sync()

        about = [event for event in events if event["event"].startswith("service_port")]
        assert ["service_port_unfit"] == [event["event"] for event in about]
        assert "source_ranges" == about[0]["full_map"]
        assert ["source_ranges"] == list(parts.loop.unfit.values())
        assert [("web", "source_ranges")] == parts.unfit


async def test_an_address_without_room_is_told_once_with_whom_it_was_to_lead_to(events):
    """The log and an event name the Service; a change of another one does not repeat it."""
    async with running(capacity=SMALL._replace(vips=1)) as parts:
        parts.model.set_service(service("web"))
        parts.model.mark_complete()
        await parts.sync()
        parts.model.set_service(service("api", "10.96.0.2"))
        await parts.sync()
        parts.model.set_service(service("other", "10.96.0.1"))
        await parts.sync()
        assert [("api", "vips")] == parts.unfit
        for name in ("web", "other"):
            parts.model.remove_service(service(name).key)
        await parts.sync()
        await parts.programmer.settled()

    told = [event for event in events if event["event"].startswith("vip")]
    assert ["vip_unfit", "vip_fits_again"] == [event["event"] for event in told]
    assert {"10.96.0.2"} == {event["address"] for event in told}
    assert ["ns/api" in name for name in told[0]["service_ports"]] == [True]


async def test_notes_are_told_without_alarm(events):
    """What is merely worth knowing about an object is no warning."""
    async with running() as parts:
        web = service("web")
        parts.model.set_service(web._replace(ports=(web.ports[0]._replace(protocol="SCTP"),)))
        parts.model.mark_complete()
        await parts.sync()

        (note,) = [event for event in events if event["event"] == "object_note"]
        assert ("info", "spec.ports") == (note["log_level"], note["field"])


async def test_problems_of_objects_are_logged_with_name_and_field(events):
    """Bad input is named; the other Services go on."""
    async with running() as parts:
        parts.model.set_service(service("bad", "10.96.0.300"))
        parts.model.set_service(service("good"))
        parts.model.mark_complete()
        await parts.sync()

        problem = next(event for event in events if event["event"] == "object_problem")
        assert ("ns/bad", "spec.clusterIPs[0]") == (problem["object"], problem["field"])
        assert 1 == len(parts.dataplane.frontends)


async def test_a_sync_that_the_background_completes_is_finished():
    """The first sync had a refused write, a grace later the background repeats it: that counts."""
    async with running(retry_s=3600) as parts:
        parts.model.set_service(service("old", "10.96.0.9"))
        parts.model.mark_complete()
        await parts.sync()
        # One service goes (its ids wait for a grace) while the frontend of another is refused.
        parts.model.remove_service(service("old", "10.96.0.9").key)
        parts.model.set_service(service("web"))
        parts.model.set_slice(endpoints("web", "10.0.0.1"))
        parts.dataplane.fail_at = parts.dataplane.writes + 4
        await parts.sync()

        assert 1 == len(parts.dataplane.frontends)


async def test_a_refusal_in_the_background_is_retried_while_the_loop_is_idle():
    """K11 holds for whoever met the refusal."""
    async with running(retry_s=0.01) as parts:
        parts.model.set_service(service("web"))
        parts.model.mark_complete()
        await parts.sync()
        parts.finished.clear()
        await asyncio.sleep(0.05)  # the loop is back to waiting

        refused = Failed("vips", "set", b"", OSError(12, "made to fail"))
        parts.loop.note(Outcome(0, (refused,), (), (), ()))

        async with asyncio.timeout(10):
            await parts.finished.wait()


async def test_what_the_kernel_refuses_and_what_has_no_room_is_measured():
    """Refused writes by their map, addresses without room as long as they have none."""
    async with running(capacity=SMALL._replace(vips=1)) as parts:
        parts.dataplane.fail_at = 7  # the first frontend
        for name, ip in (("web", "10.96.0.1"), ("api", "10.96.0.2")):
            parts.model.set_service(service(name, ip))
            parts.model.set_slice(endpoints(name, "10.0.0.1"))
        parts.model.mark_complete()
        await parts.sync()
        seen = {family.name: family.series for family in parts.meters.families()}
        assert 1 == sum(seen["kubeproxy_bpf_refused_writes_total"].values())
        assert {(): 1} == seen["kubeproxy_bpf_addresses_unfit"]
        parts.model.remove_service(service("web").key)
        await parts.sync()
        await parts.programmer.settled()
        seen = {family.name: family.series for family in parts.meters.families()}

    assert {(): 0} == seen["kubeproxy_bpf_addresses_unfit"]


async def test_nothing_is_taken_before_what_comes_before_has_ended():
    """What came while it was waited for is part of the sync."""
    held, waited = asyncio.Event(), asyncio.Event()

    async def before():
        waited.set()
        await held.wait()

    async with running(before=before) as parts:
        parts.model.set_service(service("web"))
        parts.model.set_slice(endpoints("web", "10.0.0.1"))
        parts.model.mark_complete()
        parts.loop.wake()
        await waited.wait()
        assert parts.model.has_changes and not parts.dataplane.frontends
        parts.model.set_service(service("db", "10.96.0.2"))
        held.set()
        await parts.finished.wait()
        assert len(parts.dataplane.frontends) == 2
