# SPDX-License-Identifier: Apache-2.0
"""``kubeproxy-bpf sandbox demo``: the main job, shown to somebody who has never seen the project.

Each printed line is real connections from a real place, with what was expected of them. The exit
code is 0 only if every line was as expected and nothing was left behind.
"""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Iterator, NamedTuple

from kubeproxy_bpf.sandbox.cluster import Options, Sandbox
from kubeproxy_bpf.sandbox.errors import SandboxError
from kubeproxy_bpf.sandbox.expect import REFUSED, Expectation, always_one_of, each_of
from kubeproxy_bpf.sandbox.layout import Topology
from kubeproxy_bpf.sandbox.probe import Protocol, Target, ask_often
from kubeproxy_bpf.sandbox.tables import service_rows, table
from kubeproxy_bpf.sandbox.traces import traces

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests" / "sandbox"

_TIMES = 60
_SETTLE_TIMEOUT_S = 30.0
_PROTOCOLS: tuple[Protocol, Protocol] = ("TCP", "UDP")
_OUTSIDE = "client"
_NODE_PORT = 30080
_COLUMNS = "  {:<9}{:<30}{:<5}{:<6}{:<46}{}"
ALL = each_of("web-1", "web-2", "web-3", "web-4")._replace(text="all four pods")


class Line(NamedTuple):
    """Connections of one kind, from one place to one address."""

    place: str
    target: Target
    expected: Expectation
    times: int = _TIMES


def run(name: str, topology: Topology, proxy_command: str = "") -> int:
    """Show everything, return the exit code."""
    if not MANIFESTS.is_dir():
        raise SandboxError(f"{MANIFESTS} is missing: the demo runs from a source checkout")
    before = traces(name)
    print(f"Starting a small cluster on this machine: two nodes, six pods, topology {topology}.")
    begun = time.monotonic()
    with Sandbox.up(name, topology, Options(proxy_command=proxy_command)) as sandbox:
        print(
            f"It is up after {time.monotonic() - begun:.1f} s. Each node runs its own kube-proxy."
        )
        show = Show(sandbox)
        show.everything()
    left = traces(name) - before
    print(f"\nThe cluster is gone. Left behind: {', '.join(sorted(left)) or 'nothing'}.")
    if show.failures or left:
        print(f"{show.failures} of {show.lines} lines were not as expected.")
        return 1
    print(f"All {show.lines} lines were as expected.")
    return 0


class Show:
    """The story of the demo, told on one sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.lines = 0
        self.failures = 0
        self.vips: dict[str, list[str]] = {}

    def everything(self) -> None:
        self._apply()
        self._cluster_ips()
        self._node_ports()
        self._external_addresses()
        self._outside_client()
        self._policies()
        self._nobody()
        self._live_change()

    def _apply(self) -> None:
        self.sandbox.apply([MANIFESTS])
        services = self.sandbox.api.list("Service")
        self.vips = {x["metadata"]["name"]: x["spec"].get("clusterIPs", []) for x in services}
        _say(
            "These Services were just created on its API server (manifests/sandbox):",
            *(f"  {row}" for row in table(service_rows(services))),
        )
        # Each node has its own proxy, and the demo asks from both.
        for place in ("shell-1", "shell-2"):
            self._settle(Line(place, self._vip("web"), ALL))
            self._settle(Line(place, self._vip("nobody"), REFUSED, times=1))

    def _vip(self, service: str, protocol: Protocol = "TCP", family: int = 0) -> Target:
        return Target(protocol, self.vips[service][family], 80)

    def _cluster_ips(self) -> None:
        _say(
            "A pod connects to the VIPs of Service web. No packet ever carries a VIP: the kernel",
            "replaces it inside connect(). Pods web-1 and web-3 are on node1, the others on node2.",
            "",
            _COLUMNS.format("FROM", "  TO", "", "", f"WHO ANSWERED {_TIMES} TIMES", "EXPECTED"),
        )
        self._show_both("shell-1", "web", ALL)
        _say("The same from a pod of the other node, and from the nodes themselves:")
        self._show_both("shell-2", "web", ALL)
        for place in self.sandbox.layout.node_names:
            self._show_both(place, "web", ALL)

    def _show_both(self, place: str, service: str, expected: Expectation) -> None:
        """All protocols over all families."""
        for family in (0, 1):
            for protocol in _PROTOCOLS:
                self._show(Line(place, self._vip(service, protocol, family), expected))

    def _node_ports(self) -> None:
        _say("Service node-port is reached on the node's addresses and on loopback:")
        own = self.sandbox.layout.addresses("node1")
        for line in _node_port_lines(own.v4, own.v6):
            self._show(line)

    def _external_addresses(self) -> None:
        _say("Service external has an external IP (…10) and a load balancer's IP (…20):")
        for address in ("203.0.113.10", "2001:db8:113::10"):
            self._show(Line("shell-1", Target("TCP", address, 80), ALL))
        for address in ("203.0.113.20", "2001:db8:113::20"):
            self._show(Line("node2", Target("UDP", address, 80), ALL))

    def _outside_client(self) -> None:
        _say(
            "A client outside of the cluster calls no connect() on a node. Its packets carry the",
            "address that it dialled; programs at the nodes' devices give them their pod, and the",
            "answers the address that it knows. Through the node port of both nodes:",
        )
        for node in self.sandbox.layout.nodes:
            for protocol, address in zip(_PROTOCOLS, node.addresses):
                self._show(Line(_OUTSIDE, Target(protocol, address, _NODE_PORT), ALL))
        _say("Through the external IP and the load balancer's IP of Service external:")
        for address in ("203.0.113.10", "2001:db8:113::20"):
            for protocol in _PROTOCOLS:
                self._show(Line(_OUTSIDE, Target(protocol, address, 80), ALL))

    def _policies(self) -> None:
        _say("Service affinity remembers its clients: one client, one pod.")
        pods = [pod.name for pod in self.sandbox.layout.pods if pod.serves]
        for place in ("shell-1", "shell-2"):
            self._show(Line(place, self._vip("affinity"), always_one_of(*pods)))
        _say("Service local (internalTrafficPolicy: Local) stays on the client's node:")
        for place, names in (("shell-1", ("web-1", "web-3")), ("shell-2", ("web-2", "web-4"))):
            for family in (0, 1):
                self._show(Line(place, self._vip("local", family=family), each_of(*names)))

    def _nobody(self) -> None:
        _say(
            "Service nobody has no pods: its clients are told so at once. So are clients of a port",
            "that web does not have.",
        )
        self._show_both("shell-1", "nobody", REFUSED)
        web = self._vip("web")
        self._show(Line("node1", web._replace(port=81), REFUSED))

    def _live_change(self) -> None:
        stages = (
            (1, "Now a live change. Service web is scaled to one pod:", each_of("web-1")),
            (3, "Scaled to three pods:", each_of("web-1", "web-2", "web-3")),
            (0, "Scaled to none:", REFUSED),
        )
        node2 = self.sandbox.layout.addresses("node2")
        targets = (
            ("shell-1", self._vip("web")),
            ("node2", self._vip("web", "UDP", 1)),
            (_OUTSIDE, Target("TCP", node2.v4, _NODE_PORT)),
        )
        for replicas, text, expected in stages:
            self.sandbox.scale("web", replicas)
            _say(text)
            for place, target in targets:
                line = Line(place, target, expected)
                self._settle(line)
                self._show(line)

    def _measure(self, line: Line) -> Counter[str]:
        return self.sandbox.run_in(line.place, partial(ask_often, line.target, line.times))

    def _settle(self, line: Line) -> None:
        """Wait until a change that was just made has reached the node; what counts comes after."""
        deadline = time.monotonic() + _SETTLE_TIMEOUT_S
        while not line.expected.holds(self._measure(line)) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _show(self, line: Line) -> None:
        answers = self._measure(line)
        good = line.expected.holds(answers)
        self.lines += 1
        self.failures += not good
        seen = ", ".join(f"{name} {count}×" for name, count in sorted(answers.items()))
        family = "IPv6" if ":" in line.target.address else "IPv4"
        told = f"{'✓' if good else '✗ expected'} {line.expected.text}"
        cells = (line.place, f"→ {line.target}", line.target.protocol, family, seen, told)
        print(_COLUMNS.format(*cells), flush=True)


def _node_port_lines(v4: str, v6: str) -> Iterator[Line]:
    for place, address in (("node1", "127.0.0.1"), ("node1", v4), ("shell-1", v4)):
        yield Line(place, Target("TCP", address, _NODE_PORT), ALL)
    for place in ("node1", "shell-1"):
        yield Line(place, Target("UDP", v6, _NODE_PORT), ALL)


def _say(*sentences: str) -> None:
    print("", *sentences, sep="\n", flush=True)
