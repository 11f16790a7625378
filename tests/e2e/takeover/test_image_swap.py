# SPDX-License-Identifier: Apache-2.0
"""There and back as pods: kubeadm's DaemonSet with our image, then the cleanup's pod."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Iterator

import pytest

from kubeproxy_bpf.sandbox.layout import BACKEND_PORT
from tests.e2e.flows.places import socket_in
from tests.e2e.packaging.cluster import WEB_VIP, cluster, machine_rootfs
from tests.e2e.packaging.pods import MANIFESTS, NodePods, kubeadm_objects, kustomized, node_pods
from tests.e2e.packets.asking import again
from tests.e2e.takeover import kube_proxy
from tests.e2e.takeover.clusters import listening
from tests.e2e.takeover.conftest import Node
from tests.e2e.takeover.kube_proxy import Served

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[NodePods]:
    """Node 1 with the rules of a kube-proxy that has just ended."""
    with (
        cluster("kpbt-take-swap", tmp_path) as kube,
        node_pods(kube, "node1", machine_rootfs()) as made,
    ):
        load(made)
        yield made


def load(pods: NodePods) -> None:
    layout = pods.cluster.sandbox.layout
    backends = tuple((each.addresses.v4, BACKEND_PORT) for each in layout.pods if each.serves)
    served = Served("default/web", WEB_VIP, 80, 31080, (), backends)
    rules = kube_proxy.iptables([served], layout.pod_network.v4, False)
    Node(layout.netns("node1")).run("iptables-restore", "--noflush", text=rules)


def rules(pods: NodePods) -> str:
    return Node(pods.cluster.sandbox.layout.netns("node1")).run("iptables-save")


def connected() -> socket.socket:
    return socket.create_connection((WEB_VIP, 80), 3)


def test_a_swap_there_and_back(pods: NodePods) -> None:
    """The stock pod finds and removes the rules, its connections live; the cleanup's pod leaves
    the node to the rules of a kube-proxy that is there again."""
    sandbox = pods.cluster.sandbox
    with socket_in(sandbox, "shell-1", connected) as before:
        before.settimeout(3)
        first = again(before)
        _, (container,) = pods.containers(kubeadm_objects(pods.cluster))
        proxy = pods.start(container)
        proxy.until("healthy", pods.healthy)
        proxy.until("the rules are gone", lambda: "KUBE-SVC" not in rules(pods))
        assert again(before) == first
        assert pods.asked("shell-1").startswith("web-")
        with socket_in(sandbox, "shell-1", connected) as during:
            during.settimeout(3)
            second = again(during)
            assert proxy.stop(grace_s=30) == 0
            load(pods)
            (cleanup,), _ = pods.containers(kustomized(MANIFESTS / "cleanup"))
            with listening(sandbox.place("node1")):
                status, log = pods.run_to_end(cleanup)
            assert status == 0, log
            assert "cleanup_finished" in log and "kube_proxy_alive" in log
            assert "KUBE-SVC" in rules(pods)
            assert again(during) == second
            assert pods.asked("shell-1").startswith("web-")
