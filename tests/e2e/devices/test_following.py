# SPDX-License-Identifier: Apache-2.0
"""A running proxy and the devices of its node: found, followed, put back, kept over restarts."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
import urllib.request
from typing import Callable, Iterator

import pytest

from kubeproxy_bpf.libbpf import AttachType, Link, device_chain
from kubeproxy_bpf.sandbox.cluster import Sandbox

pytestmark = [pytest.mark.root, pytest.mark.slow]

NODE = "node1"
HOOKS = {"ingress": AttachType.TCX_INGRESS, "egress": AttachType.TCX_EGRESS}
BOTH = {"ingress", "egress"}

# (program id, link id) of the first at each hook, by device
Chains = dict[str, dict[str, tuple[int, int]]]


class Node:
    """What can be seen of the devices from inside the node."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def chains(self) -> Chains:
        return self.sandbox.run_in(NODE, _chains)

    def hooks(self) -> dict[str, set[str]]:
        return {device: set(hooks) for device, hooks in self.chains().items()}

    def ip(self, line: str) -> None:
        done = self.sandbox.exec(NODE, ["ip", *line.split()])
        assert not done.returncode, done.stderr

    def metric(self, name: str) -> float:
        """A sample as /metrics shows it; 0 where there is none."""
        text = self.sandbox.run_in(NODE, _metrics)
        found = re.search(rf"^{re.escape(name)} ([0-9.]+)$", text, re.MULTILINE)
        return float(found.group(1)) if found else 0.0

    def log(self) -> str:
        return (self.sandbox.directory / "log" / f"kube-proxy-{NODE}.log").read_text()

    def end_proxy(self, number: int) -> None:
        process = self.sandbox._started[f"kube-proxy-{NODE}"]
        process.send_signal(number)
        process.wait(timeout=30)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 40
        while not condition():
            assert time.monotonic() < deadline, f"{self.hooks()}\n{self.log()[-3000:]}"
            time.sleep(0.1)


def _chains() -> Chains:
    found: Chains = {}
    for index, name in socket.if_nameindex():
        for hook, kind in HOOKS.items():
            for entry in device_chain(index, kind)[:1]:
                found.setdefault(name, {})[hook] = (entry.prog_id, entry.link_id)
    return found


def _metrics() -> str:
    with urllib.request.urlopen("http://127.0.0.1:10249/metrics", timeout=5) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """The first node of a cluster with an overlay."""
    with Sandbox.up(f"kpbt-d{os.getpid()}", "vxlan") as sandbox:
        yield Node(sandbox)


def test_all_that_leads_somewhere_has_programs_when_the_proxy_is_ready(node: Node) -> None:
    """Uplink, overlay and pods in both directions, loopback at ingress, the pods' bridge not."""
    pods = {f"v-{pod.name}": BOTH for pod in node.sandbox.layout.pods_of(NODE)}
    expected = {"lo": {"ingress"}, "eth0": BOTH, "vxlan0": BOTH, **pods}

    assert expected == node.hooks()
    assert 1 == node.metric('kubeproxy_bpf_device_attached{device="vxlan0",hook="egress"}')


def test_a_pod_that_comes_has_programs_and_goes_without_a_trace(node: Node) -> None:
    """The process hears of its device, and forgets it with its pins."""
    links = node.sandbox.pin_path(NODE) / "links"
    before = {path.name for path in links.iterdir()}
    node.ip(f"link add name v-late type veth peer name eth9 netns {_far_end(node)}")
    node.until(lambda: node.hooks().get("v-late") == BOTH)
    node.ip("link del v-late")
    node.until(lambda: {path.name for path in links.iterdir()} == before)


def _far_end(node: Node) -> str:
    return f"/run/netns/{node.sandbox.layout.netns('client')}"


def test_a_program_that_somebody_removed_is_put_back(node: Node) -> None:
    """Seen within some seconds, without any event; told in the log and in the metrics."""
    counter = 'kubeproxy_bpf_device_reattachments_total{device="eth0",hook="ingress"}'
    before = node.metric(counter)
    _, link_id = node.chains()["eth0"]["ingress"]
    with Link.from_id(link_id) as link:
        link.detach()
    node.until(lambda: "ingress" in node.hooks().get("eth0", ()))

    assert before + 1 == node.metric(counter)
    assert "program_put_back" in node.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_links_outlive_the_process_and_get_the_programs_of_the_next(
    number: signal.Signals, node: Node
) -> None:
    """No hook is empty in between: the links are the same before and after."""
    before = node.chains()
    node.end_proxy(number)
    assert before == node.chains()

    node.sandbox.start_proxy(NODE)
    node.sandbox.wait_ready()
    after = node.chains()

    assert _part(before, 1) == _part(after, 1)
    changed = zip(_part(before, 0), _part(after, 0))
    assert all(old != new for old, new in changed)


def _part(chains: Chains, index: int) -> list[int]:
    """Program ids (0) or link ids (1) of all hooks, in one order."""
    return [
        chains[device][hook][index] for device in sorted(chains) for hook in sorted(chains[device])
    ]


def test_other_sizes_of_the_maps_are_other_programs_in_the_same_links(node: Node) -> None:
    """Old maps end when no link runs a program on them."""
    links = _part(node.chains(), 1)
    pins = node.sandbox.pin_path(NODE)
    before = {path.name for path in pins.iterdir()}
    node.end_proxy(signal.SIGTERM)
    node.sandbox.start_proxy(NODE, flags=["--bpf-max-services=4096"])
    node.sandbox.wait_ready()

    after = {path.name for path in pins.iterdir()}
    assert links == _part(node.chains(), 1)
    assert {"links"} == before & after
    assert len(before) == len(after)
