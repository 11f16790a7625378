# SPDX-License-Identifier: Apache-2.0
"""Node and Pod objects of a sandbox, as a kubelet would register them.

Pure: builds manifests from the layout. EndpointSlices are not made here: the controller in the
embedded API server derives them from Services and ready Pods, as in a cluster.
"""

from __future__ import annotations

from typing import Any

from kubeproxy_bpf.sandbox.layout import BACKEND_PORT, Layout, Node, Pod

Manifest = dict[str, Any]

_READY = [{"type": "Ready", "status": "True"}]


def node_manifest(node: Node) -> Manifest:
    labels = {"kubernetes.io/hostname": node.name, "topology.kubernetes.io/zone": node.zone}
    addresses = [{"type": "InternalIP", "address": address} for address in node.addresses]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "spec": {"podCIDR": node.pod_cidrs.v4, "podCIDRs": list(node.pod_cidrs)},
        "status": {
            "addresses": [*addresses, {"type": "Hostname", "address": node.name}],
            "conditions": _READY,
        },
    }


def pod_manifest(pod: Pod, node: Node) -> Manifest:
    container: Manifest = {"name": pod.app, "image": f"sandbox/{pod.app}"}
    if pod.serves:
        container["ports"] = [
            {"name": protocol.lower(), "containerPort": BACKEND_PORT, "protocol": protocol}
            for protocol in ("TCP", "UDP")
        ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.name, "namespace": "default", "labels": {"app": pod.app}},
        "spec": {"nodeName": pod.node, "containers": [container]},
        "status": {
            "phase": "Running",
            "conditions": _READY,
            "hostIP": node.addresses.v4,
            "podIP": pod.addresses.v4,
            "podIPs": [{"ip": address} for address in pod.addresses],
        },
    }


def manifests(layout: Layout) -> list[Manifest]:
    """All Nodes, then all Pods."""
    nodes = {node.name: node for node in layout.nodes}
    pods = [pod_manifest(pod, nodes[pod.node]) for pod in layout.pods]
    return [node_manifest(node) for node in layout.nodes] + pods


def kubeconfig(layout: Layout) -> Manifest:
    """Client configuration that reaches the API server from every place of the sandbox."""
    cluster = {"name": layout.name, "cluster": {"server": f"http://{layout.api_server}"}}
    context = {"name": layout.name, "context": {"cluster": layout.name, "user": "sandbox"}}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [cluster],
        "users": [{"name": "sandbox", "user": {}}],
        "contexts": [context],
        "current-context": layout.name,
    }
