# SPDX-License-Identifier: Apache-2.0
"""What is read for a scrape, from which parts, and for how long."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from kubeproxy_bpf.config.load import load
from kubeproxy_bpf.plan.writes import Capacity
from kubeproxy_bpf.serve.devices import DeviceReading
from kubeproxy_bpf.serve.flows import FlowReading
from kubeproxy_bpf.serve.metrics_datapath import HookReading, MapReading
from kubeproxy_bpf.serve.services import ServiceReading, ServicesReading
from kubeproxy_bpf.telemetry import Telemetry


class Parts:
    """Stand-ins for what a running proxy reads."""

    def __init__(self, source_ranges=0, flows=FlowReading()):
        self.verdicts = {"translated": 3}
        self.instance = SimpleNamespace(
            verdicts=self.read_verdicts,
            inspection=SimpleNamespace(
                hooks=HookReading(("a",), ("b",), True), maps={"affinity": MapReading(None, 8)}
            ),
            device_reading=DeviceReading,
            sockets_aborted=2,
        )
        self.programmer = SimpleNamespace(
            used=Capacity(1, 2, 3, 4, 5, 6, 0),
            capacity=Capacity(10, 20, 30, 40, 50, 60, source_ranges),
            planner=SimpleNamespace(programmed=7),
        )
        self.sync = SimpleNamespace(unfit={"p": "slots", "q": "slots", "r": "frontends"})
        self.packets = SimpleNamespace(reading=lambda: flows)
        web = ServiceReading(("ns", "web", "http", "TCP", "IPv4"), 1, 2, 3, 4, 5, 6)
        self.counted = SimpleNamespace(reading=lambda: ServicesReading(True, True, (web,)))
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def read_verdicts(self):
        self.entered.set()
        assert self.go_on.wait(10)
        return self.verdicts


def telemetry(waiting=False):
    return Telemetry(load(["--hostname-override=n1"]), ("IPv4",), lambda: waiting)


def following(parts):
    made = telemetry()
    made.follow(parts.instance, parts.programmer, parts.sync, parts.packets, parts.counted)
    return made


async def series(made):
    return {family.name: family.series for family in await made.read()}


@pytest.mark.parametrize("waiting", [False, True])
async def test_before_there_is_a_datapath_there_are_metrics(waiting):
    """A proxy that waits for another says so, and nothing of maps that are not its own."""
    seen = await series(telemetry(waiting))

    assert {(): waiting} == seen["kubeproxy_bpf_writer_waiting"]
    assert "kubernetes_build_info" in seen
    assert "kubeproxy_bpf_map_entries" not in seen


async def test_the_parts_of_the_datapath_are_joined():
    """Maps of the planner, of the sweep and of the inspection are one metric."""
    seen = await series(following(Parts(70, FlowReading(9, 90, 0))))

    assert {("a",): 1, ("b",): 0} == seen["kubeproxy_bpf_hook_active"]
    assert {("slots",): 2, ("frontends",): 1} == seen["kubeproxy_bpf_service_ports_unfit"]
    assert {(): 7} == seen["kubeproxy_bpf_service_ports"]
    assert {(): 2} == seen["kubeproxy_bpf_udp_sockets_aborted_total"]
    entries, capacity = (seen[f"kubeproxy_bpf_map_{name}"] for name in ("entries", "capacity"))
    assert (2, 20) == (entries[("frontends",)], capacity[("frontends",)])
    assert (0, 70) == (entries[("source_ranges",)], capacity[("source_ranges",)])
    assert (9, 90) == (entries[("flows",)], capacity[("flows",)])
    assert [6] == [*seen["kubeproxy_bpf_service_bytes_total"].values()]
    assert 8 == capacity[("affinity",)]
    assert ("affinity",) not in entries


async def test_maps_that_do_not_exist_are_not_empty():
    """Without a packet path there are neither flows nor source ranges."""
    names = {name for (name,) in (await series(following(Parts())))["kubeproxy_bpf_map_capacity"]}

    assert {"flows", "source_ranges"}.isdisjoint(names)
    assert "vips" in names


async def test_nobody_leaves_while_somebody_reads():
    """Maps are closed after that; a later reading has none of them. The loop goes on meanwhile."""
    parts = Parts()
    made = following(parts)
    parts.go_on.clear()
    reading = asyncio.create_task(series(made))
    while not parts.entered.is_set():
        await asyncio.sleep(0.001)
    leaving = asyncio.create_task(made.leave())
    await asyncio.sleep(0.02)
    assert not leaving.done()
    parts.go_on.set()
    await leaving

    assert "kubeproxy_bpf_map_entries" in await reading
    assert "kubeproxy_bpf_map_entries" not in await series(made)
