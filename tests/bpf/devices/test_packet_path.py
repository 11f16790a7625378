# SPDX-License-Identifier: Apache-2.0
"""Devices that come and go: the real programs follow them, and know what they must of each."""

import asyncio
import errno
import subprocess
from functools import partial
from pathlib import Path

import pytest

import kubeproxy_bpf
from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.config.load import load as load_config
from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.dataplane.devicemap import DeviceFlags, DeviceRecord
from kubeproxy_bpf.dataplane.loader import load_bare_ip, load_datapath, load_packets
from kubeproxy_bpf.dataplane.places import Hook, Place
from kubeproxy_bpf.dataplane.settings import Settings
from kubeproxy_bpf.libbpf import LibbpfError, Program
from kubeproxy_bpf.node.devices import DeviceWatcher
from kubeproxy_bpf.packets import PacketPath

pytestmark = pytest.mark.root

OBJECTS = Path(kubeproxy_bpf.__file__).parent / "obj"
SETTINGS = Settings(host_netns=1, instance=1, flags=0)
SIZES = {"kpb_flows": 1024, "kpb_flow_queue": 1024}
BOTH = {"ingress", "egress"}


class Running:
    """The packet path of a node, following its devices, in the node's own thread."""

    def __init__(self, node, pins, packets, *flags):
        self.node = node
        config = load_config(["--hostname-override=n1", *flags])
        bare_ip = partial(load_bare_ip, OBJECTS / "packets.bpf.o", SETTINGS, packets)
        self.path = node.do(lambda: PacketPath(packets, bare_ip, pins, config))

    def until(self, condition):
        """Follow the devices until something holds."""
        self.node.do(lambda: asyncio.run(self._until(condition)))

    async def _until(self, condition):
        def changed(devices):
            self.path.devices_changed(devices)
            seen.set()

        seen = asyncio.Event()
        watcher = asyncio.create_task(DeviceWatcher(lambda addresses: None, changed).run())
        try:
            async with asyncio.timeout(20):
                while True:
                    await seen.wait()
                    seen.clear()
                    await asyncio.to_thread(self.path.sync)
                    if condition():
                        return
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    def attached(self):
        """The hooks by device."""
        found = {}
        for device, hook in self.path.reading().attached:
            found.setdefault(device, set()).add(hook)
        return found

    def record(self, name):
        """What the programs know of a device."""
        codec = layout.bind(self.path.datapath.btf, "device", DeviceRecord)
        key = self.node.ifindex(name).to_bytes(4, "little")
        return codec.decode(self.path.datapath.maps["kpb_devices"].lookup(key))


@pytest.fixture(scope="module")
def packets():
    """The programs, for all tests: the verifier takes its time."""
    sizes = {"kpb_slots": 1024, "kpb_backends": 1024}
    with load_datapath(OBJECTS / "kube_proxy.bpf.o", None, sizes, SETTINGS) as sockets:
        path = OBJECTS / "packets.bpf.o"
        with load_packets(path, None, SIZES, SETTINGS, sockets, bare_ip=False) as loaded:
            yield loaded


@pytest.fixture
def run(node, pins, packets):
    made = []

    def start(*flags):
        made.append(Running(node, pins, packets, *flags))
        return made[-1]

    yield start
    for each in made:
        each.path.close()
    devices = packets.maps["kpb_devices"]
    for key in list(devices.keys()):
        devices.delete(key)


def test_devices_are_followed(node, run):
    """Programs come with a device and go with it; the kernel has them where it is said."""
    running = run()
    running.until(lambda: running.attached() == {"lo": {"ingress"}})
    index = node.wire("v0")
    running.until(lambda: running.attached().get("v0") == BOTH)
    program = running.path.datapath.programs["kpb_tc_ingress"].info().id
    assert [program] == node.chain(Place(index, "v0", Hook.INGRESS))
    assert [program] == node.chain(Place(1, "lo", Hook.INGRESS))
    node.ip("link del v0")
    running.until(lambda: "v0" not in running.attached())


def test_a_node_with_a_bridge_of_pods_and_an_overlay(node, run):
    """Uplink and overlay in both directions, pods at their ports, the bridge itself without."""
    node.ip("link add name cni0 type bridge")
    node.ip("addr add 10.244.1.1/24 dev cni0")
    node.wire("v-pod")
    node.ip("link set dev v-pod master cni0")
    node.wire("eth0", "far")
    node.ip("addr add 192.0.2.1/24 dev eth0")
    node.ip("link add name vx0 type vxlan id 7 dstport 4789")
    node.ip("link set dev vx0 up")
    node.ip("tuntap add t-vm mode tap")
    node.ip("link set dev t-vm master cni0 up")
    running = run("--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0")
    expected = {"lo": {"ingress"}, "v-pod": BOTH, "t-vm": BOTH, "eth0": BOTH, "vx0": BOTH}
    running.until(lambda: running.attached() == expected)

    assert ["eth0"] == [name for name in (*expected, "cni0") if running.path.is_uplink(name)]
    flags = DeviceFlags(running.record("v-pod").flags)
    local = DeviceFlags.POD | DeviceFlags.POD_LOCAL | DeviceFlags.ETHERNET
    assert local | DeviceFlags.PEER == flags
    assert local == running.record("t-vm").flags, "a process is at its other end"
    assert not DeviceFlags.POD & running.record("eth0").flags
    assert {"eth0": "none"} == running.path.reading().xdp_modes


def test_a_device_without_ethernet_header_has_programs_of_its_own(node, run, packets):
    """They are loaded with the first such device, on the maps of the others."""
    running = run()
    running.until(lambda: "lo" in running.attached())
    assert "kpb_tc_ingress_l3" not in packets.programs
    node.ip("tuntap add dev tun0 mode tun")
    node.ip("link set dev tun0 up")
    running.until(lambda: running.attached().get("tun0") == BOTH)

    (number,) = node.chain(Place(node.ifindex("tun0"), "tun0", Hook.INGRESS))
    with Program.from_id(number) as program:
        info = program.info()
    assert "kpb_tc_ingress_".startswith(info.name) and "kpb_tc_ingress" != info.name
    assert {packets.maps[name].info().id for name in ("kpb_vips", "kpb_flows")} <= set(info.map_ids)
    assert not DeviceFlags.ETHERNET & running.record("tun0").flags


def test_what_could_not_be_loaded_for_such_a_device_is_tried_again(node, run):
    """For want of descriptors or memory, say: else it would have no programs until a restart."""
    running = run()
    load, failures = running.path._load_bare_ip, iter(range(1))

    def refused_at_first():
        for _ in failures:
            raise LibbpfError(errno.EMFILE, "bpf_map_create")
        return load()

    running.path._load_bare_ip = refused_at_first
    node.ip("tuntap add dev tun0 mode tun")
    node.ip("link set dev tun0 up")
    running.until(lambda: running.path.reading().refused)
    node.do(running.path.sync)

    assert BOTH == running.attached().get("tun0")
    assert () == running.path.reading().refused


def test_the_programs_know_address_mac_and_mtu_as_they_change(node, run):
    """The first address that others can answer, of each family."""
    node.wire("eth0", "far")
    running = run()
    node.ip("addr add 192.0.2.1/24 dev eth0")
    node.ip("addr add 192.0.2.2/24 dev eth0")
    node.ip("addr add 2001:db8::1/64 dev eth0 nodad")
    node.ip("addr add 2001:db8::9/64 dev eth0 nodad preferred_lft 0")
    node.ip("link set dev eth0 mtu 1400 address 02:00:00:00:00:07")
    seven = bytes.fromhex("020000000007")
    running.until(lambda: running.record("eth0").mac == seven)

    found = running.record("eth0")
    assert (parse_address("192.0.2.1"), 1400) == (found.ipv4, found.mtu)
    assert parse_address("2001:db8::1") == found.ipv6
    node.ip("addr del 192.0.2.1/24 dev eth0")
    running.until(lambda: running.record("eth0").ipv4 != parse_address("192.0.2.1"))


def test_a_device_that_is_gone_is_gone_from_the_map(node, run):
    """The map holds the devices there are."""
    running = run()
    index = node.wire("v0")
    running.until(lambda: "v0" in running.attached())
    node.ip("link del v0")
    running.until(lambda: "v0" not in running.attached())

    assert None is running.path.datapath.maps["kpb_devices"].lookup(index.to_bytes(4, "little"))


@pytest.mark.parametrize(("flag", "mode"), [("auto", "none"), ("native", "native")])
def test_xdp_on_a_veth_only_if_it_is_asked_for(node, run, flag, mode):
    """What XDP sends back through a veth vanishes if the peer is not prepared."""
    node.wire("eth0", "far")
    node.ip("addr add 192.0.2.1/24 dev eth0")
    running = run(f"--bpf-xdp={flag}")
    running.until(lambda: running.attached().get("eth0", set()) >= BOTH)

    assert {"eth0": mode} == running.path.reading().xdp_modes
    assert (mode == "native") == ("xdp" in node.link("eth0"))


def test_xdp_redirects_only_to_uplinks_that_send(node, run):
    """A veth sends while its peer has GRO; what is redirected to another vanishes silently."""
    for name, far in (("eth0", "far0"), ("eth1", "far1"), ("v-pod", "far2")):
        node.wire(name, far)
    node.ip("addr add 192.0.2.1/24 dev eth0")
    node.ip("addr add 192.0.3.1/24 dev eth1")
    for far in ("far1", "far2"):
        words = ["nsenter", f"--net=/run/netns/{node.peer}", "ethtool", "-K", far, "gro", "on"]
        subprocess.run(words, check=True)
    running = run("--bpf-xdp=native")
    running.until(lambda: "eth1" in running.attached())

    names = ("lo", "eth0", "eth1", "v-pod")
    sending = {name for name in names if DeviceFlags.XDP_TARGET & running.record(name).flags}
    assert {"eth1"} == sending
