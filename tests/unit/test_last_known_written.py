# SPDX-License-Identifier: Apache-2.0
"""When a snapshot is written, and that neither disk nor content ever ends the process."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kubeproxy_bpf import last_known
from kubeproxy_bpf.api.credentials import Connection
from kubeproxy_bpf.api.decode import Kind
from kubeproxy_bpf.api.snapshot_file import SnapshotFile
from kubeproxy_bpf.last_known import cluster_of
from tests.recalling import (
    WEB,
    Process,
    no_waiting,
    path,
    until,
)

__all__ = ["no_waiting", "path"]


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
