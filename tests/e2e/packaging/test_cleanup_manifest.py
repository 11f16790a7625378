# SPDX-License-Identifier: Apache-2.0
"""The cleanup of every node: what its init container leaves, and what keeps the pod there."""

from __future__ import annotations

from typing import Iterator

import pytest

from tests.e2e.packaging.cluster import Cluster
from tests.e2e.packaging.container import Rootfs
from tests.e2e.packaging.pods import (
    MANIFESTS,
    NodePods,
    installed_objects,
    kubeadm_objects,
    kustomized,
    node_pods,
)

pytestmark = pytest.mark.root


@pytest.fixture
def node2(kube: Cluster, rootfs: Rootfs) -> Iterator[NodePods]:
    with node_pods(kube, "node2", rootfs) as pods:
        yield pods


@pytest.mark.parametrize("installed", [kubeadm_objects, installed_objects])
def test_nothing_serves_after_the_cleanup(kube: Cluster, node2: NodePods, installed) -> None:
    """However the proxy got there, the init container takes its datapath off the node, and what
    was known of the cluster."""
    inits, (proxy,) = node2.containers(installed(kube))
    for init in inits:
        status, log = node2.run_to_end(init)
        assert 0 == status, log
    running = node2.start(proxy)
    running.until("healthy", node2.healthy)
    assert 0 == running.stop()
    assert node2.asked("shell-2").startswith("web-")
    kept = node2.directory.path / "var/lib/kube-proxy-bpf"
    assert (installed is installed_objects) == (kept / "snapshot").exists()
    (cleanup,), (done,) = node2.containers(kustomized(MANIFESTS / "cleanup"))

    status, log = node2.run_to_end(cleanup)

    assert 0 == status, log
    assert not node2.asked("shell-2").startswith("web-")
    assert not list(kept.iterdir())
    waiting = node2.start(done)
    waiting.until("asleep", lambda: b"sleep" in waiting.command)
