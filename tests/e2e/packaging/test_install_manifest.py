# SPDX-License-Identifier: Apache-2.0
"""Our own DaemonSet on a node: named capabilities, a read-only root, the host's bpffs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Iterator

import pytest

from tests.e2e.packaging.cluster import Cluster
from tests.e2e.packaging.container import Container, Rootfs
from tests.e2e.packaging.pods import (
    MANIFESTS,
    NodePods,
    connected_udp,
    installed_objects,
    kustomized,
    node_pods,
    of_kind,
)

pytestmark = pytest.mark.root


@pytest.fixture
def node1(kube: Cluster, rootfs: Rootfs) -> Iterator[NodePods]:
    with node_pods(kube, "node1", rootfs) as pods:
        yield pods


@pytest.fixture
def objects(kube: Cluster) -> list[dict[str, Any]]:
    return installed_objects(kube)


@pytest.fixture(scope="module", autouse=True)
def prepared(kube: Cluster, rootfs: Rootfs) -> None:
    """What an init container sets on a node stays there for all pods of these tests."""
    with node_pods(kube, "node1", rootfs) as pods:
        (init,), _ = pods.containers(installed_objects(kube))
        status, log = pods.run_to_end(init)
    assert 0 == status, log


def proxy_of(node: NodePods, objects: list[dict[str, Any]]) -> Container:
    _, (container,) = node.containers(objects)
    return container


def test_what_needs_privileges_is_done_before(
    kube: Cluster, node1: NodePods, objects: list[dict[str, Any]]
) -> None:
    """The init container reserves ports and sets time-outs, so the proxy, to which /proc/sys is
    read-only, finds everything as it wants it; the cleanup gives the ports back."""
    kube.sandbox.run_in("node1", partial(write_sysctl, "ip_local_port_range", "20000 40000"))
    (init,), (container,) = node1.containers(objects)
    (cleanup,), _ = node1.containers(kustomized(MANIFESTS / "cleanup"))
    try:
        status, log = node1.run_to_end(init)
        assert 0 == status, log
        assert "20000-29999" == kube.sandbox.run_in("node1", reserved_ports)

        proxy = node1.start(container)
        proxy.until("healthy", node1.healthy)
        proxy.until("attached", lambda: "hooks_proved" in proxy.log.read_text())
        assert 0 == proxy.stop()
        log = proxy.log.read_text()
        assert "ports_reserved" in log and "ports_not_reserved" not in log
    finally:
        status, log = node1.run_to_end(cleanup)
        kube.sandbox.run_in("node1", partial(write_sysctl, "ip_local_port_range", "32768 60999"))
    assert 0 == status, log
    assert "" == kube.sandbox.run_in("node1", reserved_ports)


def write_sysctl(name: str, value: str) -> None:
    Path("/proc/sys/net/ipv4", name).write_text(value)


def reserved_ports() -> str:
    return Path("/proc/sys/net/ipv4/ip_local_reserved_ports").read_text().strip()


def test_the_pod_serves_and_its_successor_adopts(
    node1: NodePods, objects: list[dict[str, Any]]
) -> None:
    """With the manifest's capabilities Services work, its probes succeed, and a rolling update
    finds the pins of the pod before: connections go on without any process. What it knew is kept
    on the node."""
    proxy = node1.start(proxy_of(node1, objects))
    proxy.until("healthy", node1.healthy)
    assert node1.asked("shell-1").startswith("web-")
    assert node1.asked("node1", protocol="UDP").startswith("web-")
    (spec,) = of_kind(objects, "DaemonSet")["spec"]["template"]["spec"]["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert 200 == node1.get(spec[probe]["httpGet"]["path"])[0]
    assert "error" not in levels(proxy.log.read_text())

    assert 0 == proxy.stop(grace_s=30)
    pins = pinned(node1)
    assert pins
    kept = node1.directory.path / "var/lib/kube-proxy-bpf/snapshot"
    assert 0o100600 == kept.stat().st_mode
    assert node1.asked("shell-1").startswith("web-")

    successor = node1.start(proxy_of(node1, objects))
    successor.until("healthy", node1.healthy)
    assert pins == pinned(node1)
    assert node1.asked("shell-1").startswith("web-")
    assert 0 == successor.stop()


def test_without_the_rule_for_pods_one_line_says_so(
    kube: Cluster, node1: NodePods, objects: list[dict[str, Any]]
) -> None:
    """system:node-proxier does not let anybody see Pods: host ports are off, all else works."""
    kube.fault(kind="status", resource="pods", verbs=["list", "watch"], code=403, times=None)

    proxy = node1.start(proxy_of(node1, objects))
    proxy.until("healthy", node1.healthy)

    assert node1.asked("shell-1").startswith("web-")
    log = proxy.log.read_text()
    assert 1 == log.count("host ports of pods are not served"), log
    assert "watch_failed" not in log


def test_sockets_in_pods_are_aborted_when_their_backend_goes(
    kube: Cluster, node1: NodePods, objects: list[dict[str, Any]]
) -> None:
    """The proxy enters namespaces of pods through the mounted /run/netns: a connected UDP socket
    is told that its backend went, and does not wait for answers for ever."""
    proxy = node1.start(proxy_of(node1, objects))
    proxy.until("healthy", node1.healthy)
    with connected_udp(kube, "shell-1") as (backend, end):
        kube.delete_pod(backend)
        assert "ECONNABORTED" == end()
    proxy.until("abortion told", lambda: "udp_sockets_aborted" in proxy.log.read_text())


def pinned(node: NodePods) -> list[str]:
    """Names of all pins of the node."""
    pins = node.directory.bpffs / "kube-proxy"
    return sorted(str(path.relative_to(pins)) for path in pins.rglob("*"))


def levels(log: str) -> set[str]:
    """The levels of the log's lines."""
    return {part.split("]")[0].strip() for part in log.split("[")[1:]}
