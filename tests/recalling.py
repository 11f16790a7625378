# SPDX-License-Identifier: Apache-2.0
"""One proxy process, as far as the snapshot notices it; for the tests of ``last_known``."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, AsyncIterator

import pytest

from kubeproxy_bpf import last_known
from kubeproxy_bpf.api.credentials import Connection
from kubeproxy_bpf.api.decode import ApiObject, Kind
from kubeproxy_bpf.api.meters import SnapshotMeters
from kubeproxy_bpf.api.objects import EndpointSlice, ObjectKey
from kubeproxy_bpf.api.source import node_store
from kubeproxy_bpf.api.store import Store
from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.last_known import LastKnown
from kubeproxy_bpf.model.cluster import ClusterModel
from kubeproxy_bpf.model.facts import ModelConfig
from tests.fix_objects import NODE, endpoint_slice, node, pod, service, traits

API = service(name="kubernetes", cluster_ips=("10.96.0.1",))
API_SLICE = endpoint_slice({"192.0.2.1": traits()}, name="kubernetes", service="kubernetes")
WEB = service(cluster_ips=("10.96.0.9",))
NODES = (node(addresses=(("InternalIP", "192.0.2.11"),)),)
OBJECTS: dict[Kind, tuple[ApiObject, ...]] = {
    Kind.SERVICE: (API, WEB),
    Kind.ENDPOINT_SLICE: (API_SLICE, endpoint_slice({"10.0.0.1": traits()})),
    Kind.NODE: NODES,
    Kind.POD: (pod(),),
    Kind.SERVICE_CIDR: (),
}


class Heard:
    """A subscriber that knows what it was told; it tells the model of slices."""

    def __init__(self, model: ClusterModel) -> None:
        self.model = model
        self.known: dict[tuple[Kind, ObjectKey], ApiObject] = {}
        self.events: list[str] = []

    def on_change(
        self, kind: Kind, key: ObjectKey, old: ApiObject | None, new: ApiObject | None
    ) -> None:
        assert self.known.get((kind, key)) == old
        if isinstance(new, EndpointSlice):
            self.model.set_slice(new)
        elif kind is Kind.ENDPOINT_SLICE:
            self.model.remove_slice(key)
        if new is None:
            del self.known[kind, key]
        else:
            self.known[kind, key] = new

    def on_recalled(self) -> None:
        self.events.append("recalled")

    def on_synced(self) -> None:
        self.events.append("synced")


class Process:
    """What one proxy process has of this."""

    def __init__(self, path: Path | str, host: str = "https://192.0.2.1:6443") -> None:
        self.store: Store = node_store()
        self.model = ClusterModel(ModelConfig(NODE))
        self.meters = SnapshotMeters()
        self.connection = Connection(host=host)
        self.answered = False
        """Whether the API server said anything yet."""
        config = Config(hostname=NODE, snapshot_path=str(path))
        self.last_known = LastKnown(config, self, self.store, self.model, self.meters)
        self.heard = Heard(self.model)
        self.store.subscribe(self.heard)
        self.asked = asyncio.Event()
        """The API server, by the source."""

    def sync(self, objects: dict[Kind, tuple[ApiObject, ...]] = OBJECTS) -> None:
        """All lists come."""
        for kind, found in objects.items():
            self.store.sink(kind).replace({each.key: each for each in found}, ())

    async def source(self) -> None:
        self.asked.set()
        await asyncio.Event().wait()

    @asynccontextmanager
    async def running(self, serves_already: bool = False) -> AsyncIterator[None]:
        opened = self.last_known.opened(serves_already)
        async with opened, asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.last_known.run()),
                group.create_task(self.last_known.reach(self.source)),
            ]
            await asyncio.sleep(0)
            yield
            for task in tasks:
                task.cancel()

    def metric(self, name: str) -> dict[Any, Any]:
        return next(dict(f.series) for f in self.meters.families() if f.name.endswith(name))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_known, "ANSWER_WAIT_S", 0.02)
    monkeypatch.setattr(last_known, "_GATHER_S", 0.0)
    monkeypatch.setattr(last_known, "_INTERVAL_S", 0.0)


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A snapshot that an earlier process left, at its orderly end."""
    made = tmp_path / "kept" / "snapshot"
    before = Process(made)
    async with before.running():
        before.sync()
    assert made.exists()
    return made


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)
