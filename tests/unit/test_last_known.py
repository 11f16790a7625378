# SPDX-License-Identifier: Apache-2.0
"""When a snapshot is believed, when one is written, and that neither ever ends the process."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, AsyncIterator

import pytest
from structlog.testing import capture_logs

from kubeproxy_bpf import last_known
from kubeproxy_bpf.api.credentials import Connection
from kubeproxy_bpf.api.decode import ApiObject, Kind
from kubeproxy_bpf.api.meters import SnapshotMeters
from kubeproxy_bpf.api.objects import EndpointSlice, Ingress, ObjectKey, Service
from kubeproxy_bpf.api.snapshot import Identity
from kubeproxy_bpf.api.snapshot_file import SnapshotFile
from kubeproxy_bpf.api.source import node_store
from kubeproxy_bpf.api.store import Store
from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.last_known import LastKnown, cluster_of
from kubeproxy_bpf.model.cluster import ClusterModel
from kubeproxy_bpf.model.facts import ModelConfig
from kubeproxy_bpf.model.slices import API_SERVER
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


async def test_what_is_known_stands_in_until_the_lists_come(path: Path) -> None:
    """An API server that is silent for a moment; then its lists replace everything as a whole."""
    process = Process(path)
    async with process.running():
        await process.asked.wait()
        await until(lambda: process.heard.events)
        assert {key for _, key in process.heard.known} >= {API_SERVER, WEB.key}
        assert 2 == process.metric("snapshot_objects")["Service",]
        process.sync({**OBJECTS, Kind.SERVICE: (API,)})
        assert ["recalled", "synced"] == process.heard.events
        assert (Kind.SERVICE, WEB.key) not in process.heard.known
        assert 0 == process.metric("snapshot_objects")["Service",]


async def test_an_api_server_that_answers_is_believed_alone(path: Path) -> None:
    """Within its moment nothing is recalled, and nothing after."""
    process = Process(path)
    async with process.running():
        await asyncio.sleep(0.005)
        process.sync({**OBJECTS, Kind.SERVICE: (API,)})
        await asyncio.sleep(0.05)
        assert ["synced"] == process.heard.events


async def test_an_api_server_that_says_anything_gets_the_time_to_tell_all(path: Path) -> None:
    """Large lists take longer than a moment, and so does a refusal to show Pods."""
    process = Process(path)
    process.answered = True
    async with process.running():
        await asyncio.sleep(0.05)
        assert not process.heard.events
        process.sync({**OBJECTS, Kind.POD: ()})
        assert ["synced"] == process.heard.events


async def test_an_api_server_that_never_tells_all_is_not_waited_for_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that only says that it cannot serve leaves us with what was known."""
    monkeypatch.setattr(last_known, "_LISTS_WAIT_S", 0.05)
    process = Process(path)
    process.answered = True
    async with process.running():
        await until(lambda: ["recalled"] == process.heard.events)


async def test_an_address_that_the_api_server_has_without_us_stays_its_own(tmp_path: Path) -> None:
    """Endpoints that are dead by now must not take it: nobody could tell of others."""
    path, address = tmp_path / "snapshot", "192.0.2.1"
    vip = service(
        name="vip",
        cluster_ips=("10.96.0.8",),
        external_ips=(address, "192.0.2.2"),
        ingress=(Ingress(address, "VIP"), Ingress("192.0.2.3", "VIP"), Ingress("", "VIP")),
    )
    before = Process(path)
    async with before.running():
        before.sync({**OBJECTS, Kind.SERVICE: (API, vip)})
    process = Process(path)
    async with process.running():
        await process.asked.wait()
        await until(lambda: process.heard.events)
        recalled = process.heard.known[Kind.SERVICE, vip.key]
        assert isinstance(recalled, Service)
        assert ("192.0.2.2",) == recalled.external_ips
        assert ["192.0.2.3", ""] == [entry.ip for entry in recalled.ingress]
        process.sync({**OBJECTS, Kind.SERVICE: (API, vip)})
        assert vip == process.heard.known[Kind.SERVICE, vip.key]


async def test_a_name_of_the_api_server_stands_for_its_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it has an address without us does not depend on how it is configured."""
    path, named = tmp_path / "snapshot", "https://localhost:6443"
    vip = service(name="vip", external_ips=("127.0.0.1",))
    before = Process(path, named)
    async with before.running():
        before.sync({**OBJECTS, Kind.SERVICE: (vip,)})
    process = Process(path, named)
    async with process.running():
        await until(lambda: process.heard.events)
        assert () == getattr(process.heard.known[Kind.SERVICE, vip.key], "external_ips")


async def test_an_api_server_behind_a_service_is_asked_when_that_is_programmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before that a connection would hang until it times out."""
    monkeypatch.setattr(last_known, "ANSWER_WAIT_S", 60.0)
    path, behind = tmp_path / "snapshot", "https://10.96.0.1:443"
    before = Process(path, behind)
    async with before.running():
        before.sync()
    process = Process(path, behind)
    async with process.running():
        await until(lambda: process.heard.events)
        await asyncio.sleep(0.01)
        assert not process.asked.is_set()
        process.last_known.programmed()
        await process.asked.wait()


async def test_programs_that_serve_know_better(path: Path) -> None:
    """Nothing is recalled over them, but the API server's endpoints are remembered."""
    process = Process(path)
    async with process.running(serves_already=True):
        await asyncio.sleep(0.05)
        assert not process.heard.events
        assert (API_SLICE,) == process.model.api_server_slices()


async def test_programs_that_serve_memories_do_not_know_better(path: Path) -> None:
    """A process that ends before the lists come leaves the next one where it began; a third one,
    after the lists, finds programs that know better."""
    for serves_already in (False, True):
        process = Process(path)
        async with process.running(serves_already):
            await until(lambda: ["recalled"] == process.heard.events)
            assert 2 == process.metric("snapshot_objects")["Service",]
            if serves_already:
                process.sync()
                await until(lambda: [path.name] == os.listdir(path.parent))
    process = Process(path)
    async with process.running(serves_already=True):
        await asyncio.sleep(0.05)
        assert not process.heard.events


async def test_a_note_of_memories_does_not_outlive_them(path: Path) -> None:
    """Programs that know better than another snapshot are not taken back to it."""
    process = Process(path)
    async with process.running():
        await until(lambda: process.heard.events)
    note = next(each for each in path.parent.iterdir() if each != path)
    held = note.read_bytes()
    process = Process(path)
    async with process.running():
        process.sync()
    note.write_bytes(held)
    process = Process(path)
    async with process.running(serves_already=True):
        await asyncio.sleep(0.05)
        assert not process.heard.events


async def test_what_is_remembered_of_the_api_server_is_written_again(path: Path) -> None:
    """A snapshot without a way to the API server would be one without a way out."""
    process = Process(path)
    async with process.running(serves_already=True):
        process.sync({**OBJECTS, Kind.ENDPOINT_SLICE: ()})
    snapshot = SnapshotFile(path).read(Identity(NODE, "https://192.0.2.1:6443"))
    assert snapshot is not None
    assert (API_SLICE,) == snapshot.objects[Kind.ENDPOINT_SLICE]


async def test_nothing_is_written_before_everything_is_known(path: Path) -> None:
    """What was recalled, or half of the lists, is no snapshot."""
    before = path.read_bytes()
    process = Process(path)
    async with process.running():
        await until(lambda: process.heard.events)
        process.store.sink(Kind.SERVICE).replace({}, ())
    assert before == path.read_bytes()
    assert {(): 0} == process.metric("writes_total")


async def test_changes_are_written_while_it_runs(path: Path) -> None:
    """Once it is known, each change comes to the disk, and only changes do."""
    process = Process(path)
    async with process.running():
        process.sync()
        await until(lambda: process.metric("writes_total")[()] == 1)
        await asyncio.sleep(0.05)
        assert 1 == process.metric("writes_total")[()]
        process.store.sink(Kind.SERVICE).remove(WEB.key)
        await until(lambda: process.metric("writes_total")[()] == 2)
    assert 2 == process.metric("writes_total")[()], "there is nothing to write at the end"
    assert process.metric("age_seconds")[()] < 60


async def test_a_write_that_fails_is_told_once_and_tried_again(path: Path) -> None:
    """The process goes on, and the old snapshot stays."""
    process, held = Process(path), path.read_bytes()
    with capture_logs() as logs:
        async with process.running():
            os.chmod(path.parent, 0o700)
            path.parent.rename(path.parent.with_name("moved"))
            process.sync()
            await until(lambda: process.metric("errors_total")["not_written",] > 2)
            assert held == (path.parent.with_name("moved") / path.name).read_bytes()
            path.parent.with_name("moved").rename(path.parent)
            await until(lambda: process.metric("writes_total")[()])
    assert 1 == len([each for each in logs if each["event"] == "snapshot_not_written"])


async def test_no_fault_of_our_own_ends_the_process(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in reading nor in writing: Services are served without a snapshot, too."""

    def broken(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(SnapshotFile, "read", broken)
    monkeypatch.setattr(last_known, "encode", broken)
    process, held = Process(path), path.read_bytes()
    async with process.running():
        process.sync()
        await until(lambda: process.metric("errors_total")["not_written",])
    assert 1 == process.metric("errors_total")["unreadable",]
    assert held == path.read_bytes()


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, os.urandom(4096)])
async def test_what_cannot_be_believed_is_told_once_and_replaced(
    path: Path, content: bytes
) -> None:
    """The start is as without a snapshot, and a good one takes its place."""
    path.write_bytes(content)
    process = Process(path)
    with capture_logs() as logs:
        async with process.running():
            await asyncio.sleep(0.05)
            assert not process.heard.events
            process.sync()
    assert 1 == len([each for each in logs if each["event"] == "snapshot_refused"])
    assert 1 == process.metric("errors_total")["corrupt",]
    assert path.read_bytes() != content


async def test_a_path_that_cannot_be_written_turns_it_off(tmp_path: Path) -> None:
    """With one line in the log, and without a change to anything else."""
    (tmp_path / "file").write_text("")
    process = Process(tmp_path / "file" / "snapshot")
    with capture_logs() as logs:
        async with process.running():
            process.sync()
            await asyncio.sleep(0.02)
    assert ["snapshot_off"] == [each["event"] for each in logs if "snapshot_r" not in each["event"]]
    assert {(): 0} == process.metric("writes_total")


@pytest.mark.parametrize("step", ["read", "prepare", "write"])
async def test_a_disk_that_hangs_is_gone_on_without(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Neither the start nor the end waits for it, and one line in the log says so."""
    ends = threading.Event()
    monkeypatch.setattr(last_known, "_DISK_WAIT_S", 0.05)
    monkeypatch.setattr(SnapshotFile, step, lambda *_: ends.wait(10))
    process = Process(path)
    try:
        with capture_logs() as logs:
            async with asyncio.timeout(5), process.running():
                await process.asked.wait()
                process.sync()
    finally:
        ends.set()
    assert ["snapshot_off"] == [each["event"] for each in logs if "_off" in each["event"]]


async def test_an_end_amid_a_write_that_hangs_begins_no_second_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once would write into one file."""
    ends, writes = threading.Event(), []

    def hang(*_: object) -> None:
        writes.append("begun")
        ends.wait(10)

    monkeypatch.setattr(last_known, "_DISK_WAIT_S", 0.05)
    monkeypatch.setattr(SnapshotFile, "write", hang)
    process = Process(path)
    try:
        async with asyncio.timeout(5), process.running():
            process.sync()
            await until(lambda: writes)
        assert ["begun"] == writes
    finally:
        ends.set()


async def test_without_a_path_there_is_nothing(tmp_path: Path) -> None:
    """No file, no metric of its age, no line in the log."""
    process = Process("")
    with capture_logs() as logs:
        async with process.running():
            process.sync()
    assert ([], []) == (logs, os.listdir(tmp_path))
    assert not process.metric("age_seconds")


def test_a_cluster_is_known_by_address_and_authority(tmp_path: Path) -> None:
    """Two clusters often have one address; and no secret of the address comes to the disk."""
    names = set()
    for authority in ("one", "two"):
        (tmp_path / authority).write_text(authority)
        connection = Connection(
            "https://me:secret@10.96.0.1", ssl_ca_cert=str(tmp_path / authority)
        )
        names.add(cluster_of(connection))
    assert 2 == len(names) and not any("secret" in name for name in names)
