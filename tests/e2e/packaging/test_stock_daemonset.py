# SPDX-License-Identifier: Apache-2.0
"""kubeadm's own DaemonSet and ConfigMap with another image: nothing else is changed."""

from __future__ import annotations

from typing import Iterator

import pytest

from tests.e2e.packaging.cluster import Cluster
from tests.e2e.packaging.container import Rootfs
from tests.e2e.packaging.pods import METRICS_PORT, NodePods, kubeadm_objects, node_pods

pytestmark = pytest.mark.root


@pytest.fixture
def node1(kube: Cluster, rootfs: Rootfs) -> Iterator[NodePods]:
    with node_pods(kube, "node1", rootfs) as pods:
        yield pods


def test_the_stock_pod_serves_and_leaves_its_datapath(kube: Cluster, node1: NodePods) -> None:
    """Command line, mounts, configuration and account of kubeadm give Services, health, metrics;
    SIGTERM ends with 0 within the grace period and connections go on."""
    _, (container,) = node1.containers(kubeadm_objects(kube))

    proxy = node1.start(container)
    proxy.until("healthy", node1.healthy)

    assert node1.asked("shell-1").startswith("web-")
    assert node1.asked("shell-1", protocol="UDP").startswith("web-")
    assert node1.asked("node1").startswith("web-")
    assert 200 == node1.get("/livez")[0]
    status, metrics = node1.get("/metrics", METRICS_PORT)
    assert 200 == status
    assert "kubeproxy_bpf_" in metrics

    assert 0 == proxy.stop(grace_s=30)
    assert node1.asked("shell-1").startswith("web-")


def test_a_pod_that_is_deleted_while_it_starts_ends_at_once(kube: Cluster, node1: NodePods) -> None:
    """As first process of a container it has a handler for SIGTERM before the long part of its
    start: no grace period runs out."""
    _, (container,) = node1.containers(kubeadm_objects(kube))
    proxy = node1.start(container)
    proxy.until("begun", lambda: "mode_served_by_ebpf" in proxy.log.read_text())

    assert 0 == proxy.stop(grace_s=30)
