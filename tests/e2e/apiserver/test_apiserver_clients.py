# SPDX-License-Identifier: Apache-2.0
"""Other clients than ours: kubectl, and the stock kubernetes_asyncio."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from kubernetes_asyncio import client as kubernetes
from kubernetes_asyncio import watch as kubernetes_watch

from kubeproxy_bpf.sandbox.apiserver import ApiServer

from .conftest import SLICES, Client, endpoint_slice, service

KUBECTL = os.environ.get("KUBECTL") or shutil.which("kubectl")
MANIFEST = """
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: dns, port: 53, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.1.0.1]}]
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web}}
spec: {containers: [{name: c, image: i}]}
"""


class Kubectl:
    def __init__(self, url: str, home: Path) -> None:
        self._options = ["--server", url, "--kubeconfig", "/dev/null", "--cache-dir", str(home)]
        self._home = home

    async def __call__(self, *arguments: str, content: str = "", fails: bool = False) -> str:
        """Run kubectl and return its output; of both channels when it is to fail."""
        assert KUBECTL
        process = await asyncio.create_subprocess_exec(
            KUBECTL,
            *self._options,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": str(self._home)},
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(content.encode()), 60)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert bool(process.returncode) == fails, (arguments, out, err)
        return (out + err if fails else out).decode()


@pytest.fixture
def kubectl(server: ApiServer, tmp_path: Path) -> Kubectl:
    if not KUBECTL:
        pytest.skip("kubectl is not installed")
    return Kubectl(server.url, tmp_path)


async def test_kubectl_applies_changes_and_deletes(kubectl: Kubectl, server: ApiServer) -> None:
    """Plain kubectl apply creates, leaves alone, changes and removes; delete deletes."""
    created = await kubectl("apply", "-f", "-", content=MANIFEST)
    assert created.count("created") == 3
    ip = await kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
    assert "service/web unchanged" in await kubectl("apply", "-f", "-", content=MANIFEST)
    moved = MANIFEST.replace("port: 80,", "port: 81,").replace(", labels: {app: web}}", "}", 1)
    assert "service/web configured" in await kubectl("apply", "-f", "-", content=moved)
    shown = await kubectl(
        "get", "svc", "web", "-o", "jsonpath={.spec.ports[*].port} {.spec.clusterIP}"
    )
    assert shown == f"53 81 {ip}" or shown == f"81 53 {ip}"
    assert await kubectl("get", "svc", "web", "-o", "jsonpath={.metadata.labels}") == ""
    deleted = await kubectl("delete", "-f", "-", content=moved)
    assert deleted.count("deleted") == 3
    assert "NotFound" in await kubectl("get", "service", "web", fails=True)


async def test_kubectl_apply_without_validation(kubectl: Kubectl) -> None:
    """--validate=false works as well, and server-side apply does."""
    assert "created" in await kubectl("apply", "--validate=false", "-f", "-", content=MANIFEST)
    applied = await kubectl("apply", "--server-side", "-f", "-", content=MANIFEST)
    assert applied.count("serverside-applied") == 3


async def test_kubectl_prints_tables(kubectl: Kubectl, server: ApiServer) -> None:
    """kubectl get shows the columns of each kind, across kinds and namespaces."""
    await kubectl("apply", "-f", "-", content=MANIFEST)
    for kind in ("Node", "ConfigMap"):
        meta = {"name": "x", "namespace": "default"}
        server.registry.apply({"apiVersion": "v1", "kind": kind, "metadata": meta})
    shown = await kubectl("get", "svc,endpointslices,po,no,cm,ns,servicecidrs", "-A", "-o", "wide")
    for word in (
        "CLUSTER-IP",
        "80/TCP,53/UDP",
        "10.1.0.1",
        "ADDRESSTYPE",
        "10.96.0.0/16",
        "Pending",
    ):
        assert word in shown
    assert "<unknown>" not in shown
    assert "web" in await kubectl("get", "svc", "-l", "app in (web),!other")


async def test_kubectl_patches_labels_and_replaces(kubectl: Kubectl) -> None:
    """patch of every type, label, annotate and replace change the object."""
    await kubectl("apply", "-f", "-", content=MANIFEST)
    strategic = '{"spec":{"ports":[{"port":53,"$patch":"delete"}]}}'
    await kubectl("patch", "svc", "web", "-p", strategic)
    json_patch = '[{"op":"replace","path":"/spec/ports/0/port","value":82}]'
    await kubectl("patch", "svc", "web", "--type=json", "-p", json_patch)
    merge = '{"endpoints":[{"addresses":["10.1.0.2"]},{"addresses":["10.1.0.3"]}]}'
    await kubectl("patch", "endpointslice", "web-1", "--type=merge", "-p", merge)
    await kubectl("label", "svc", "web", "tier=front")
    await kubectl("annotate", "svc", "web", "note=x")
    path = "jsonpath={.spec.ports[*].port} {.metadata.labels.tier} {.metadata.annotations.note}"
    assert await kubectl("get", "svc", "web", "-o", path) == "82 front x"
    addresses = "jsonpath={.endpoints[*].addresses[0]}"
    assert await kubectl("get", "endpointslice", "web-1", "-o", addresses) == "10.1.0.2 10.1.0.3"
    assert (await kubectl("replace", "-f", "-", content=MANIFEST)).count("replaced") == 3


async def test_kubectl_shows_what_the_server_refuses(kubectl: Kubectl) -> None:
    """An impossible port is refused by the server with its reason."""
    word = MANIFEST.replace("port: 80,", "port: word,")
    assert "is invalid" in await kubectl("apply", "-f", "-", content=word, fails=True)


async def test_kubectl_learns_what_is_served(kubectl: Kubectl) -> None:
    """version and api-resources read the discovery documents."""
    assert "1.36" in (await kubectl("version", "-o", "json")).replace('"36"', "1.36")
    resources = await kubectl("api-resources", "-o", "name")
    expected = {"services", "endpointslices.discovery.k8s.io", "servicecidrs.networking.k8s.io"}
    assert expected <= set(resources.split())


async def test_kubectl_waits_for_a_change(kubectl: Kubectl, server: ApiServer) -> None:
    """kubectl wait watches until an object is as asked for."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}
    server.registry.apply(node)
    waiting = asyncio.create_task(
        kubectl("wait", "node/n", "--for=condition=Ready", "--timeout=30s")
    )
    observers = server.store.table(_nodes()).observers
    while not observers and not waiting.done():
        await asyncio.sleep(0.02)
    status = {"conditions": [{"type": "Ready", "status": "True"}]}
    server.registry.apply({**node, "status": status})
    assert "condition met" in await waiting


def _nodes() -> Any:
    from kubeproxy_bpf.sandbox.apiserver.resources import NODES

    return NODES


@pytest.fixture
async def stock(server: ApiServer) -> Any:
    configuration = kubernetes.Configuration()
    configuration.host = server.url
    async with kubernetes.ApiClient(configuration) as api:
        yield api


async def test_the_stock_client_writes_and_reads(stock: Any) -> None:
    """kubernetes_asyncio creates, lists by selector, patches and deletes typed objects."""
    core = kubernetes.CoreV1Api(stock)
    created = await core.create_namespaced_service("default", service("web", {"app": "x"}))
    assert created.spec.cluster_ip.startswith("10.96.")
    listed = await core.list_service_for_all_namespaces(label_selector="app=x")
    assert [item.metadata.name for item in listed.items] == ["web"]
    patch = {"metadata": {"labels": {"app": "y"}}}
    patched = await core.patch_namespaced_service("web", "default", patch)
    assert patched.metadata.labels == {"app": "y"}
    patched.spec.type = "NodePort"
    replaced = await core.replace_namespaced_service("web", "default", patched)
    assert 30000 <= replaced.spec.ports[0].node_port <= 32767
    with pytest.raises(kubernetes.ApiException) as stale:
        patched.spec.type = "ClusterIP"
        await core.replace_namespaced_service("web", "default", patched)
    assert stale.value.status == 409
    await core.delete_namespaced_service("web", "default")
    assert (await core.list_namespaced_service("default")).items == []


async def test_the_stock_client_watches(stock: Any, client: Client) -> None:
    """kubernetes_asyncio lists slices and follows them from there."""
    discovery = kubernetes.DiscoveryV1Api(stock)
    await client.call("POST", SLICES, endpoint_slice("a", "10.0.0.1"))
    listed = await discovery.list_endpoint_slice_for_all_namespaces()
    version = listed.metadata.resource_version
    await client.call("POST", SLICES, endpoint_slice("b", "10.0.0.2", "10.0.0.3"))
    await client.call("DELETE", f"{SLICES}/a")
    seen = []
    async with kubernetes_watch.Watch() as watch:
        stream = watch.stream(
            discovery.list_endpoint_slice_for_all_namespaces,
            resource_version=version,
            timeout_seconds=1,
        )
        async for event in stream:
            slice_ = event["object"]
            seen.append((event["type"], slice_.metadata.name, len(slice_.endpoints)))
    assert seen == [("ADDED", "b", 2), ("DELETED", "a", 1)]


async def test_the_stock_client_writes_events(stock: Any) -> None:
    """An event of a recorder is created and read back."""
    events = kubernetes.EventsV1Api(stock)
    body = {
        "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "kube-proxy",
        "reportingInstance": "n",
        "action": "Sync",
        "reason": "Started",
        "type": "Normal",
        "note": "x",
        "regarding": {"kind": "Node", "name": "n"},
    }
    await events.create_namespaced_event("default", body)
    listed = await kubernetes.CoreV1Api(stock).list_namespaced_event("default")
    assert [event.message for event in listed.items] == ["x"]
