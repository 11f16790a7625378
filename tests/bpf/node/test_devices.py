# SPDX-License-Identifier: Apache-2.0
"""The address watcher in a network namespace of its own, with real addresses coming and going."""

import asyncio
import ctypes
import os
import subprocess
import threading
from ipaddress import ip_address

import pytest

from kubeproxy_bpf.node.devices import DeviceWatcher

pytestmark = pytest.mark.root
CLONE_NEWNET = 0x40000000


def run_in_new_namespace(function):
    """Run an async function in a thread that has unshared its network namespace."""
    outcome = []

    def body():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET) != 0:
            outcome.append(OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno())))
            return
        try:
            outcome.append(asyncio.run(function()))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class Reports:
    def __init__(self):
        self.last = None
        self.changed = asyncio.Event()

    def __call__(self, addresses):
        self.last = {
            (str(ip_address(a.address).ipv4_mapped or ip_address(a.address)), a.device)
            for a in addresses
        }
        self.changed.set()

    async def until(self, condition):
        async with asyncio.timeout(10):
            while self.last is None or not condition(self.last):
                self.changed.clear()
                await self.changed.wait()


def test_addresses_are_followed_in_both_families():
    """The first report is whole; each change of an address or device gives the next one."""

    async def scenario():
        reports = Reports()
        task = asyncio.create_task(DeviceWatcher(reports).run())
        try:
            await reports.until(lambda seen: seen == set())
            ip("link", "set", "lo", "up")
            await reports.until(lambda seen: ("127.0.0.1", "lo") in seen and ("::1", "lo") in seen)
            ip("link", "add", "dev0", "type", "veth", "peer", "name", "dev1")
            ip("addr", "add", "10.1.2.3/24", "dev", "dev0")
            ip("addr", "add", "fd01::3/64", "dev", "dev0", "nodad")
            await reports.until(lambda seen: {("10.1.2.3", "dev0"), ("fd01::3", "dev0")} <= seen)
            ip("addr", "del", "10.1.2.3/24", "dev", "dev0")
            await reports.until(lambda seen: ("10.1.2.3", "dev0") not in seen)
            ip("link", "del", "dev0")
            await reports.until(lambda seen: ("fd01::3", "dev0") not in seen)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return reports.last

    assert {("127.0.0.1", "lo"), ("::1", "lo")} == run_in_new_namespace(scenario)


class CountingWatcher(DeviceWatcher):
    reads = 0

    async def _read(self, route):
        self.reads += 1
        return await super()._read(route)


def test_a_burst_of_events_is_one_read():
    """A node that starts many pods must not read all addresses once per event."""

    async def scenario():
        reports = Reports()
        watcher = CountingWatcher(reports)
        task = asyncio.create_task(watcher.run())
        try:
            await reports.until(lambda seen: seen == set())
            ip("link", "set", "lo", "up")
            lines = "\n".join(
                f"addr add 10.9.{n // 250}.{n % 250 + 1}/32 dev lo" for n in range(500)
            )
            process = await asyncio.create_subprocess_exec("ip", "-batch", "-", stdin=-1)
            await process.communicate(lines.encode())
            await reports.until(lambda seen: ("10.9.1.250", "lo") in seen)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return watcher.reads

    assert run_in_new_namespace(scenario) < 20


def test_filters_that_come_and_go_are_told():
    """Who removes a filter of ours is found at once; it is no change of devices."""

    async def scenario():
        reports, filters = Reports(), asyncio.Event()
        watcher = DeviceWatcher(reports, report_filters=filters.set)
        task = asyncio.create_task(watcher.run())
        try:
            await reports.until(lambda seen: seen == set())
            subprocess.run(["tc", "qdisc", "add", "dev", "lo", "clsact"], check=True)
            async with asyncio.timeout(10):
                await filters.wait()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run_in_new_namespace(scenario)


async def test_what_belongs_to_no_device_is_passed_over():
    """Actions of filters are told to the same group (no kernel module for one is here)."""

    class Events:
        left = [{"event": "RTM_NEWACTION"}, {"event": "RTM_NEWLINK", "index": 7}]

        async def get(self):
            while self.left:
                yield self.left.pop(0)
            await asyncio.Event().wait()

    watcher, changed = DeviceWatcher(Reports()), asyncio.Event()
    task = asyncio.create_task(watcher._drain(Events(), changed))
    async with asyncio.timeout(10):
        await changed.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert {7} == watcher._stale


def test_devices_are_told_with_all_that_is_asked_of_them():
    """Kind, type of link, MAC, MTU, master, the other end, and addresses as the kernel has them."""

    async def scenario():
        reports, seen = Reports(), {}
        watcher = DeviceWatcher(reports, lambda all: seen.update({d.name: d for d in all}))
        task = asyncio.create_task(watcher.run())
        try:
            ip("link", "add", "br0", "type", "bridge")
            ip("link", "add", "v0", "mtu", "1400", "address", "02:00:00:00:00:01", "type", "veth")
            ip("link", "set", "dev", "v0", "master", "br0", "up")
            ip("tuntap", "add", "tun0", "mode", "tun")
            ip("addr", "add", "10.1.2.3/24", "dev", "br0")
            ip("addr", "add", "fd01::3/64", "dev", "br0")
            await reports.until(lambda seen: {("10.1.2.3", "br0"), ("fd01::3", "br0")} <= seen)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return seen

    seen = run_in_new_namespace(scenario)
    bridge, port, tunnel = seen["br0"], seen["v0"], seen["tun0"]
    assert ("bridge", "veth", "tun") == (bridge.kind, port.kind, tunnel.kind)
    assert (1, 65534) == (port.link_type, tunnel.link_type)
    assert (bytes.fromhex("020000000001"), 1400, True) == (port.mac, port.mtu, port.up)
    assert (bridge.ifindex, 0) == (port.master, bridge.master)
    assert (bytes(6), False) == (tunnel.mac, tunnel.up)
    assert not port.peer_elsewhere
    prefixes = {(a.address[-1], a.prefix_bits) for a in bridge.addresses if a.address[0] != 0xFE}
    assert {(3, 96 + 24), (3, 64)} == prefixes


def test_an_end_of_a_wire_that_goes_elsewhere_is_told_of_the_other_end():
    """A CNI plugin makes both ends here and gives one to the pod; netlink speaks of that alone."""
    name = f"kpbt-far-{os.getpid()}"

    async def scenario():
        reports, seen = Reports(), []
        told = asyncio.Event()

        def changed(devices):
            seen.append({device.name: device for device in devices})
            told.set()

        async def until(condition):
            async with asyncio.timeout(10):
                while not (seen and condition(seen[-1])):
                    told.clear()
                    await told.wait()

        task = asyncio.create_task(DeviceWatcher(reports, changed).run())
        try:
            for number in range(4):
                ip("link", "add", f"v{number}", "type", "veth", "peer", "name", f"w{number}")
            await until(lambda now: "w3" in now and not now["v3"].peer_elsewhere)
            ip("link", "set", "dev", "w3", "netns", name)
            await until(lambda now: "w3" not in now and now["v3"].peer_elsewhere)
            back = ["nsenter", f"--net=/run/netns/{name}", "ip", "link", "set", "w3", "netns"]
            subprocess.run([*back, str(threading.get_native_id())], check=True)
            await until(lambda now: "w3" in now and not now["v3"].peer_elsewhere)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    ip("netns", "add", name)
    try:
        run_in_new_namespace(scenario)
    finally:
        ip("netns", "del", name)


def test_a_device_that_changes_among_many_is_read_alone(monkeypatch):
    """The work of a change does not grow with the pods that are there."""

    async def scenario():
        reports = Reports()
        watcher = DeviceWatcher(reports)
        task = asyncio.create_task(watcher.run())
        try:
            lines = "\n".join(f"link add d{number} type bridge" for number in range(50))
            process = await asyncio.create_subprocess_exec("ip", "-batch", "-", stdin=-1)
            await process.communicate(lines.encode())
            ip("addr", "add", "10.1.2.3/24", "dev", "d7")
            await reports.until(lambda seen: ("10.1.2.3", "d7") in seen)
            await asyncio.sleep(0.5)
            monkeypatch.setattr(DeviceWatcher, "_read_links", refuse)
            ip("link", "set", "dev", "d8", "up")
            ip("addr", "add", "10.1.2.4/24", "dev", "d8")
            await reports.until(lambda seen: ("10.1.2.4", "d8") in seen)
            ip("link", "del", "dev", "d8")
            await reports.until(lambda seen: ("10.1.2.4", "d8") not in seen)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def refuse(*_):
        raise AssertionError("all devices were read")

    run_in_new_namespace(scenario)
