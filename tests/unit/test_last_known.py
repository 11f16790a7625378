# SPDX-License-Identifier: Apache-2.0
"""When a snapshot is believed, and what of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kubeproxy_bpf import last_known
from kubeproxy_bpf.api.decode import Kind
from kubeproxy_bpf.api.objects import Ingress, Service
from kubeproxy_bpf.api.snapshot import Identity, Snapshot
from kubeproxy_bpf.api.snapshot_file import SnapshotFile
from kubeproxy_bpf.model.slices import API_SERVER
from tests.fix_objects import NODE, service
from tests.recalling import (
    API,
    API_SLICE,
    OBJECTS,
    WEB,
    Process,
    no_waiting,
    path,
    until,
)

__all__ = ["no_waiting", "path"]


def note_of(path: Path) -> Path:
    """Says that the maps hold nothing newer than the snapshot."""
    return path.with_name(f".{path.name}.recalled")


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
            await process.last_known.about_to_program()
            assert note_of(path).exists()
            if serves_already:
                process.sync()
                await process.last_known.about_to_program()
                assert not note_of(path).exists()
    process = Process(path)
    async with process.running(serves_already=True):
        await asyncio.sleep(0.05)
        assert not process.heard.events


async def test_an_end_between_lists_and_maps_leaves_what_is_programmed(path: Path) -> None:
    """Some of the lists may be in the maps already: the snapshot, which is older, stays on disk."""
    process = Process(path)
    async with process.running():
        await until(lambda: process.heard.events)
        held = path.read_bytes()
        process.sync({**OBJECTS, Kind.SERVICE: (API,)})
        await process.last_known.about_to_program()
    path.write_bytes(held)  # as if it had been killed
    process = Process(path)
    async with process.running(serves_already=True):
        await asyncio.sleep(0.05)
        assert not process.heard.events
        assert (API_SLICE,) == process.model.api_server_slices()


async def test_a_note_goes_also_where_no_snapshot_can_be_kept(path: Path) -> None:
    """A process that has no use for the disk learns more than the snapshot all the same: one that
    finds the disk well again must not take the maps back."""
    process = Process(path)
    async with process.running():
        await until(lambda: process.heard.events)
    assert note_of(path).exists()
    path.parent.chmod(0o770)  # not private: nothing is written there
    process = Process(path)
    async with process.running(serves_already=True):
        process.sync({**OBJECTS, Kind.SERVICE: (API,)})
        await process.last_known.about_to_program()
    path.parent.chmod(0o700)
    process = Process(path)
    async with process.running(serves_already=True):
        await asyncio.sleep(0.05)
        assert not process.heard.events


async def test_lists_that_come_amid_a_recall_leave_no_note(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the note that memories are served came to the disk after they had gone."""
    process = Process(path)
    noted = SnapshotFile.note_recalled
    loop = asyncio.get_running_loop()

    def lists_come_first(file: SnapshotFile, snapshot: Snapshot) -> None:
        async def lists_come() -> None:
            process.sync()
            await process.last_known.about_to_program()

        asyncio.run_coroutine_threadsafe(lists_come(), loop).result(10)
        noted(file, snapshot)

    monkeypatch.setattr(SnapshotFile, "note_recalled", lists_come_first)
    async with process.running():
        await until(lambda: ["synced"] == process.heard.events)
        await until(lambda: not note_of(path).exists())
        await asyncio.sleep(0.05)
        assert not note_of(path).exists()
        assert ["synced"] == process.heard.events


async def test_a_note_of_memories_does_not_outlive_them(path: Path) -> None:
    """Programs that know better than another snapshot are not taken back to it."""
    process = Process(path)
    async with process.running():
        await until(lambda: process.heard.events)
    note = note_of(path)
    held = note.read_bytes()
    process = Process(path)
    async with process.running():
        process.sync()
    note.write_bytes(held)
    process = Process(path)
    async with process.running(serves_already=True):
        await asyncio.sleep(0.05)
        assert not process.heard.events


@pytest.mark.parametrize("serves_already", [False, True])
async def test_a_transient_list_at_a_start_takes_no_way_to_the_api_server(
    path: Path, serves_already: bool
) -> None:
    """Whether or not anything of the snapshot is served: its endpoints count while a list has
    none."""
    process = Process(path)
    async with process.running(serves_already):
        process.sync(
            {**OBJECTS, Kind.ENDPOINT_SLICE: (API_SLICE._replace(traits=(), addresses=()),)}
        )
        assert ["synced"] == process.heard.events
        assert (API_SLICE,) == process.model.api_server_slices()


@pytest.mark.parametrize("serves_already", [False, True])
async def test_what_the_snapshot_names_is_expected_of_the_first_lists(
    path: Path, serves_already: bool
) -> None:
    """Of the kinds whose absence takes endpoints away; told once, and held no longer."""
    process = Process(path)
    async with process.running(serves_already):
        assert process.last_known.expected() == {
            kind: {each.key for each in OBJECTS[kind]}
            for kind in (Kind.SERVICE, Kind.ENDPOINT_SLICE)
        }
        assert process.last_known.expected() == {}


async def test_what_is_remembered_of_the_api_server_is_written_again(path: Path) -> None:
    """A snapshot without a way to the API server would be one without a way out."""
    process = Process(path)
    async with process.running(serves_already=True):
        process.sync({**OBJECTS, Kind.ENDPOINT_SLICE: ()})
    snapshot = SnapshotFile(path).read(Identity(NODE, "https://192.0.2.1:6443"))
    assert snapshot is not None
    assert (API_SLICE,) == snapshot.objects[Kind.ENDPOINT_SLICE]
