# SPDX-License-Identifier: Apache-2.0
"""The EndpointSlice controller: endpoints of pods, their layout in slices, changes."""

from __future__ import annotations

import asyncio
from typing import Any, AsyncIterator

import pytest

from kubeproxy_bpf.sandbox.apiserver import ApiServer
from kubeproxy_bpf.sandbox.apiserver.controller import CONTROLLER, MANAGED_BY, SliceController
from kubeproxy_bpf.sandbox.apiserver.endpoints import MAX_ENDPOINTS, spread
from kubeproxy_bpf.sandbox.apiserver.resources import PODS, SERVICES, SLICES, Key


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    """A server that does not listen, with a controller at work and two nodes in two zones."""
    running = ApiServer()
    for name, zone in (("n1", "z1"), ("n2", "z2")):
        meta = {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}
        running.registry.apply({"apiVersion": "v1", "kind": "Node", "metadata": meta})
    controller = SliceController(running.store, running.registry)
    controller.start()
    yield running
    await controller.stop()


def _service(server: ApiServer, name: str = "web", **spec: Any) -> None:
    fields = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}], **spec}
    meta = {"name": name, "labels": {"team": "x"}}
    obj = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": fields}
    server.registry.apply(obj)


def _pod(
    server: ApiServer,
    name: str,
    ips: list[str],
    *,
    ready: bool = True,
    deleting: bool = False,
    phase: str = "Running",
    **spec: Any,
) -> None:
    meta: dict[str, Any] = {"name": name, "labels": {"app": "web"}}
    if deleting:
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    status = {
        "phase": phase,
        "podIPs": [{"ip": ip} for ip in ips],
        "conditions": [{"type": "Ready", "status": str(ready)}],
    }
    fields = {"nodeName": "n1", **spec}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": fields, "status": status}
    server.registry.apply(pod)


async def _slices(server: ApiServer) -> list[dict[str, Any]]:
    """The slices once the controller has nothing left to do."""
    for _ in range(20):
        await asyncio.sleep(0)
    return [entry.obj for entry in server.store.snapshot(SLICES)]


async def test_ready_pods_become_endpoints(server: ApiServer) -> None:
    """A slice has the labels, owner, ports and endpoint fields of the real controller's."""
    _service(server)
    _pod(server, "p", ["10.1.0.1"])
    (slice_,) = await _slices(server)
    meta = slice_["metadata"]
    assert meta["labels"] == {
        "team": "x",
        "kubernetes.io/service-name": "web",
        MANAGED_BY: CONTROLLER,
    }
    assert meta["ownerReferences"][0]["name"] == "web" and meta["name"].startswith("web-")
    assert slice_["addressType"] == "IPv4"
    assert slice_["ports"] == [{"name": "", "protocol": "TCP", "port": 8080}]
    (endpoint,) = slice_["endpoints"]
    assert endpoint.pop("targetRef")["name"] == "p"
    assert endpoint == {
        "addresses": ["10.1.0.1"],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": "n1",
        "zone": "z1",
    }


@pytest.mark.parametrize(
    "pod, publish, conditions",
    [
        ({}, False, (True, True, False)),
        ({"ready": False}, False, (False, False, False)),
        ({"deleting": True}, False, (False, True, True)),
        ({"ready": False}, True, (True, False, False)),
        ({"phase": "Succeeded"}, False, None),
    ],
)
async def test_conditions(server: ApiServer, pod: Any, publish: bool, conditions: Any) -> None:
    """Readiness, termination and publishNotReadyAddresses give the three conditions."""
    _service(server, publishNotReadyAddresses=publish)
    _pod(server, "p", ["10.1.0.1"], **pod)
    (slice_,) = await _slices(server)
    found = [tuple(endpoint["conditions"].values()) for endpoint in slice_["endpoints"]]
    assert found == ([conditions] if conditions else [])


async def test_each_family_has_its_slice(server: ApiServer) -> None:
    """A dual-stack Service has a slice per family, a single-stack one only its own."""
    _service(server, ipFamilyPolicy="PreferDualStack")
    _service(server, "six", ipFamilies=["IPv6"])
    _pod(server, "p", ["10.1.0.1", "fd00::1"])
    found = {
        (s["metadata"]["labels"]["kubernetes.io/service-name"], s["addressType"]): s["endpoints"][
            0
        ]["addresses"]
        for s in await _slices(server)
    }
    assert found == {
        ("web", "IPv4"): ["10.1.0.1"],
        ("web", "IPv6"): ["fd00::1"],
        ("six", "IPv6"): ["fd00::1"],
    }


@pytest.mark.parametrize(
    "wish, hints",
    [
        ("PreferClose", {"forZones": [{"name": "z2"}]}),
        ("PreferSameZone", {"forZones": [{"name": "z2"}]}),
        ("PreferSameNode", {"forZones": [{"name": "z2"}], "forNodes": [{"name": "n2"}]}),
        (None, None),
    ],
)
async def test_hints(server: ApiServer, wish: str | None, hints: Any) -> None:
    """trafficDistribution gives ready endpoints hints for their zone and node."""
    _service(server, **({"trafficDistribution": wish} if wish else {}))
    _pod(server, "p", ["10.1.0.1"], nodeName="n2")
    (slice_,) = await _slices(server)
    assert slice_["endpoints"][0].get("hints") == hints


async def test_named_ports_are_resolved_per_pod(server: ApiServer) -> None:
    """Pods that give a port name different numbers are in different slices."""
    _service(server, ports=[{"port": 80, "targetPort": "http"}])
    for name, ip, port in (("a", "10.1.0.1", 8080), ("b", "10.1.0.2", 9090)):
        ports = [{"name": "http", "containerPort": port}]
        _pod(server, name, [ip], containers=[{"name": "c", "image": "i", "ports": ports}])
    found = {
        s["ports"][0]["port"]: s["endpoints"][0]["addresses"][0] for s in await _slices(server)
    }
    assert found == {8080: "10.1.0.1", 9090: "10.1.0.2"}


async def test_slices_follow_pods_and_services(server: ApiServer) -> None:
    """Pods come, change and go; a Service that goes takes its slices along, and only its own."""
    foreign = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "foreign", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [],
    }
    server.registry.apply(foreign)
    _service(server, clusterIP="None")
    placeholder = [s for s in await _slices(server) if s["metadata"]["name"] != "foreign"]
    assert [s["endpoints"] for s in placeholder] == [[]]
    assert placeholder[0]["metadata"]["labels"]["service.kubernetes.io/headless"] == ""
    _pod(server, "a", ["10.1.0.1"])
    _pod(server, "b", ["10.1.0.2"])
    (slice_,) = [s for s in await _slices(server) if s["metadata"]["name"] != "foreign"]
    assert [e["addresses"][0] for e in slice_["endpoints"]] == ["10.1.0.1", "10.1.0.2"]
    server.registry.delete(PODS, Key("default", "a"))
    (smaller,) = [s for s in await _slices(server) if s["metadata"]["name"] != "foreign"]
    assert [e["addresses"][0] for e in smaller["endpoints"]] == ["10.1.0.2"]
    assert smaller["metadata"]["name"] == slice_["metadata"]["name"]
    server.registry.delete(SERVICES, Key("default", "web"))
    assert [s["metadata"]["name"] for s in await _slices(server)] == ["foreign"]


async def test_an_unchanged_pod_writes_nothing(server: ApiServer) -> None:
    """A change that makes no difference to the endpoints makes no new version of the slice."""
    _service(server)
    _pod(server, "a", ["10.1.0.1"])
    (before,) = await _slices(server)
    _pod(server, "a", ["10.1.0.1"], restartPolicy="Never")
    assert await _slices(server) == [before]


async def test_a_broken_service_stops_no_other(server: ApiServer) -> None:
    """An object with fields of wrong types is passed over."""
    meta = {"name": "bad"}
    spec = {"selector": {"app": "web"}, "ipFamilies": 7, "ports": "none"}
    server.store.put({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
    assert await _slices(server) == []
    _service(server)
    _pod(server, "a", ["10.1.0.1"])
    owners = [s["metadata"]["labels"]["kubernetes.io/service-name"] for s in await _slices(server)]
    assert owners == ["web"]


def test_endpoints_keep_their_slice() -> None:
    """A change touches the slices concerned only: places are filled before slices are made."""
    wanted: dict[str, dict[str, Any]] = {f"10.0.0.{n}": {"n": n} for n in range(1, 4)}
    kept = [["10.0.0.9", "10.0.0.3"], ["10.0.0.1"]]
    assert spread(kept, wanted) == [[{"n": 3}, {"n": 2}], [{"n": 1}]]
    many = {str(n): {"n": n} for n in range(MAX_ENDPOINTS * 2 + 1)}
    assert [len(endpoints) for endpoints in spread([], many)] == [MAX_ENDPOINTS, MAX_ENDPOINTS, 1]
    assert spread([["a"], ["b"]], {"b": {}}) == [[], [{}]]
