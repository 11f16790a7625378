# SPDX-License-Identifier: Apache-2.0
"""A process that starts beside an object it cannot read leaves what may belong to it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from kubeproxy_bpf.api.intake import Intake
from kubeproxy_bpf.api.resources import endpoint_slices, services
from kubeproxy_bpf.api.store import Store
from kubeproxy_bpf.config.load import load
from kubeproxy_bpf.dataplane.trace import POD
from kubeproxy_bpf.feed import Feed
from kubeproxy_bpf.model.cluster import ClusterModel
from kubeproxy_bpf.model.facts import ModelConfig
from tests.plan_objects import Bench, ip

VIPS = {"web": "10.96.0.1", "dns": "10.96.0.2", "old": "10.96.0.3", "new": "10.96.0.4"}
TARGETS = {"web": "10.0.0.1", "dns": "10.0.0.2", "old": "10.0.0.3", "new": "10.0.0.4"}


def service(name: str, port: Any = 80, version: int = 1) -> dict[str, Any]:
    meta = {"namespace": "d", "name": name, "resourceVersion": str(version)}
    return {"metadata": meta, "spec": {"clusterIP": VIPS[name], "ports": [{"port": port}]}}


def endpoint_slice(name: str) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": name}
    meta = {"namespace": "d", "name": name, "resourceVersion": "1", "labels": labels}
    endpoints = [{"addresses": [TARGETS[name]]}]
    ports = [{"name": "", "port": 8080}]
    return {"metadata": meta, "addressType": "IPv4", "ports": ports, "endpoints": endpoints}


class Process:
    """All between the API server's bytes and the maps, without anything to wait for."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._model = ClusterModel(ModelConfig("n1"))
        store = Store()
        config = load(["--hostname-override=n1"])
        self.wakes = 0
        feed = Feed(
            self._model,
            config,
            wake=self._wake,
            node_seen=lambda node: None,
            unreadable=lambda: store.unreadable,
        )
        feed.addresses_changed(frozenset())
        store.subscribe(feed)
        self.services, self.slices = (
            Intake(resource, store.sink(resource.kind), lambda error: None)
            for resource in (services(), endpoint_slices())
        )

    def _wake(self) -> None:
        self.wakes += 1

    def listed(self, *documents: dict[str, Any]) -> None:
        """The whole cluster arrives, with the slices of every name."""
        self._list(self.slices, map(endpoint_slice, VIPS))
        self._list(self.services, documents)
        self.sync()

    def event(self, kind: str, document: dict[str, Any]) -> None:
        self.services.event(json.dumps({"type": kind, "object": document}).encode())
        self.sync()

    def sync(self) -> None:
        assert self.wakes
        self.wakes = 0
        self._bench.sync(self._model.take().changes)

    def _list(self, intake: Intake, documents: Any) -> None:
        intake.begin()
        for document in documents:
            intake.add(msgspec.Raw(json.dumps(document).encode()))
        intake.commit("1")


def served(bench: Bench) -> set[str]:
    """The names whose VIP leads to their endpoint."""
    targets = {
        name: {target for target, _ in bench.fake.trace(POD, ip(vip), 80, 6).backends}
        for name, vip in VIPS.items()
    }
    for name, found in targets.items():
        assert found <= {TARGETS[name]}, "a VIP leads to another Service's endpoint"
    return {name for name, found in targets.items() if found}


@pytest.fixture
def restarted() -> tuple[Bench, Process]:
    """The previous process served web, dns and old; then old went and dns became unreadable."""
    bench = Bench()
    Process(bench).listed(service("web"), service("dns"), service("old"))
    assert served(bench) == {"web", "dns", "old"}
    bench.restart()
    process = Process(bench)
    process.listed(service("web"), service("dns", "domain"), service("new"))
    return bench, process


def test_nothing_goes_while_an_object_is_unreadable(restarted: tuple[Bench, Process]) -> None:
    """What it was may be any of what is programmed; everything else is programmed meanwhile."""
    bench, process = restarted
    assert served(bench) == {"web", "dns", "old", "new"}

    process.event("DELETED", service("web", 80, 2))
    assert served(bench) == {"dns", "old", "new"}


def test_stale_entries_go_once_it_is_readable(restarted: tuple[Bench, Process]) -> None:
    """It takes over what was its own, and what is nobody's goes."""
    bench, process = restarted
    process.event("MODIFIED", service("dns", 80, 2))
    assert served(bench) == {"web", "dns", "new"}


def test_stale_entries_go_once_it_is_deleted(restarted: tuple[Bench, Process]) -> None:
    """Its own entries are stale then."""
    bench, process = restarted
    process.event("DELETED", service("dns", "domain", 2))
    assert served(bench) == {"web", "new"}
