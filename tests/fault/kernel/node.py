# SPDX-License-Identifier: Apache-2.0
"""The node of the scenarios as its kernel sees it: devices, what is attached, what the proxy uses.

``KernelStage`` is the stage of the load with what these scenarios do to node1 besides.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from kubeproxy_bpf.libbpf import AttachType, BpfMap, Link, Program, device_chain
from kubeproxy_bpf.sandbox import topology
from tests.fault.load.stage import Stage

NODE = "node1"
TCX = (AttachType.TCX_INGRESS, AttachType.TCX_EGRESS)

Chains = dict[str, tuple[int, int]]
"""Programs of tcx by device: at ingress, at egress."""


class Use(NamedTuple):
    """What the proxy holds on to."""

    descriptors: int
    pins: int
    devices: int
    """Entries of kpb_devices."""


class KernelStage(Stage):
    """The stage, and the kernel of node1."""

    def ip(self, lines: str, place: str = NODE) -> None:
        """What ``ip -batch`` makes of some lines in a place."""
        self.run(["ip", "-batch", "-"], lines, place)

    def run(self, argv: list[str], text: str = "", place: str = NODE) -> str:
        """What a command says in a place; ``nsenter`` leaves the file systems as they are."""
        netns = f"--net=/run/netns/{self.sandbox.layout.netns(place)}"
        done = subprocess.run(["nsenter", netns, *argv], input=text, capture_output=True, text=True)
        assert not done.returncode, f"{argv}: {done.stderr}"
        return done.stdout

    def chains(self) -> Chains:
        """How many programs of tcx each device has."""
        return self.sandbox.run_in(NODE, _chains)

    def first_program(self, device: str) -> str:
        """The name of what runs first at ingress of a device."""
        return self.sandbox.run_in(NODE, lambda: _first_program(device))

    def detach(self, devices: set[str]) -> int:
        """End the links of tcx at some devices, as a foreign tool would; how many."""
        return self.sandbox.run_in(NODE, lambda: _detach(devices))

    def metric(self, name: str) -> float:
        """A sample as /metrics shows it; 0 where there is none."""
        found = re.search(rf"^{re.escape(name)} ([0-9.e+]+)$", self.metrics(), re.MULTILINE)
        return float(found.group(1)) if found else 0.0

    def metrics(self) -> str:
        return self.sandbox.run_in(NODE, _metrics)

    def health(self) -> tuple[int, str]:
        """Status and page of /healthz."""
        return self.sandbox.run_in(NODE, _health)

    def use(self) -> Use:
        """What the proxy has open, pinned and written of devices."""
        pins = self.sandbox.pin_path(NODE)
        (path,) = pins.glob("*/kpb_devices")
        with BpfMap.open_pinned(path) as devices:
            known = sum(1 for _ in devices.keys())
        descriptors = len(os.listdir(f"/proc/{self.proxy_pid()}/fd"))
        return Use(descriptors, len(list((pins / "links").iterdir())), known)

    def processor_s(self) -> float:
        """Processor time of the proxy so far."""
        fields = Path(f"/proc/{self.proxy_pid()}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_kb(self) -> int:
        text = Path(f"/proc/{self.proxy_pid()}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", text)
        assert found
        return int(found.group(1))

    # ---- the uplink ----

    def renew_uplink(self) -> None:
        """Take the uplink away, and make one of the same name, address and MAC at once."""
        layout = self.sandbox.layout
        found = re.search(r"link/ether (\S+)", self.run(["ip", "link", "show", "dev", "eth0"]))
        assert found
        wire = ["link del to-node1", topology._veth(layout, NODE, "to-node1")]
        wire += ["link set dev to-node1 master nodes", "link set dev to-node1 up"]
        node = [f"link set dev eth0 address {found.group(1)}"]
        for line in topology._node(layout, layout.nodes[0]):
            if line.startswith("route ") or "dev eth0" in line:
                # Routes to pods name the address that the uplink had, and went with it.
                node.append(line.replace("route add", "route replace"))
        self.ip("\n".join(wire), "net")
        self.ip("\n".join(node))


def _chains() -> Chains:
    return {
        name: (len(device_chain(index, TCX[0])), len(device_chain(index, TCX[1])))
        for index, name in socket.if_nameindex()
    }


def _first_program(device: str) -> str:
    chain = device_chain(socket.if_nametoindex(device), TCX[0])
    with Program.from_id(chain[0].prog_id) as program:
        return program.info().name


def _detach(devices: set[str]) -> int:
    count = 0
    for index, name in socket.if_nameindex():
        for hook in TCX:
            for entry in device_chain(index, hook) if name in devices else ():
                with Link.from_id(entry.link_id) as link:
                    link.detach()
                count += 1
    return count


def _metrics() -> str:
    with urllib.request.urlopen("http://127.0.0.1:10249/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def _health() -> tuple[int, str]:
    try:
        with urllib.request.urlopen("http://127.0.0.1:10256/healthz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
