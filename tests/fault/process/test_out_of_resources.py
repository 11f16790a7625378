# SPDX-License-Identifier: Apache-2.0
"""No descriptors, no memory, no room on the disk: who is served stays served, and it mends."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest

from tests.fault.load.offered import under_load
from tests.fault.load.stage import ALL, Stage, service
from tests.fault.process.churn import Churn
from tests.fault.process.limits import memory_group, small_disk

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

TWO = frozenset({"web-1", "web-2"})
PROXY = str(Path(sys.executable).with_name("kube-proxy"))
MEGABYTE = 1 << 20
PAGE = 4096
NO_DESCRIPTORS = os.strerror(errno.EMFILE)


@pytest.fixture
def replaced(stage: Stage) -> Iterator[Stage]:
    """A stage whose proxy of node1 is another one; afterwards it is the usual one again."""
    yield stage
    stage.persist(stage.clear_faults)
    if stage.sandbox.proxy_pids("node1"):
        stage.kill_proxy()
    stage.start_and_await()


def replace_proxy(stage: Stage, *flags: str, command: str = "") -> None:
    """Node1 gets another proxy."""
    if stage.sandbox.proxy_pids("node1"):
        stage.kill_proxy()
    stage.start_and_await(*flags, command=command)


@contextmanager
def device_that_comes(stage: Stage) -> Iterator[None]:
    """A veth as a CNI makes it for a new pod."""
    there = f"/run/netns/{stage.sandbox.layout.netns('client')}"
    made = f"ip link add name v-late type veth peer name eth9 netns {there}"
    assert stage.sandbox.exec("node1", made.split()).returncode == 0
    try:
        stage.sandbox.exec("node1", "ip link set v-late up".split())
        yield
    finally:
        stage.sandbox.exec("node1", "ip link del v-late".split())


@under_load
def test_no_descriptors_are_left(stage):
    """Without one descriptor the process lives on as it is, and follows when there are some."""
    pid = stage.proxy_pid()
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    log = len(stage.log())
    with stage.load() as load:
        # What is open stays open; whatever would be new is refused.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, usual[1]))
        try:
            stage.fault(kind="cut", verbs=["watch"], times=10)
            with Churn(stage), device_that_comes(stage):
                stage.until(lambda: stage.log()[log:].count(NO_DESCRIPTORS) > 3)
            assert ALL == stage.answers()
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
        stage.clear_faults()
        with load.recovering(), load.changing(TWO):
            stage.sandbox.scale("web", 2)
            stage.until_answers(TWO)
    assert pid == stage.proxy_pid(), "the same process"


@under_load
def test_killed_for_lack_of_memory(replaced):
    """The kernel ends the process in the middle of a change: what it wrote serves on."""
    stage = replaced
    with memory_group(f"kpbt-m{os.getpid()}") as group:
        replace_proxy(stage, command=group.command(PROXY))
        process = stage.proxy_process()
        with stage.load() as load:
            group.limit(group.used() + 4 * MEGABYTE)
            large = service("large")
            large["metadata"]["annotations"] = {"filler": "x" * (24 * MEGABYTE)}
            stage.put(large)
            assert -signal.SIGKILL == process.wait(timeout=60)
            assert group.killed() >= 1
            stage.delete(large)
            stage.sandbox.scale("web", 2)
            assert ALL == stage.answers() | stage.answers(place="client")
            with load.recovering(), load.changing(TWO):
                stage.start_and_await()
                stage.until_answers(TWO)


@under_load
def test_no_room_for_log_and_snapshot(replaced):
    """What cannot be written is not; the proxy follows as ever, and writes when there is room."""
    stage = replaced
    with small_disk(stage.sandbox.directory / "disk") as disk:
        log, snapshot = disk.directory / "log", disk.directory / "snapshot"
        script = f'exec {PROXY} "$@" 2>{log}'
        stage.kill_proxy()
        flags = ("-v=4", f"--bpf-snapshot-path={snapshot}")
        stage.start_proxy(*flags, command=f"sh -c '{script}' logged")
        stage.until(lambda: log.exists() and "hooks_proved" in log.read_text())
        pid = stage.proxy_pid()
        with stage.load() as load:
            disk.fill()
            with Churn(stage):
                stage.until(lambda: log.stat().st_size % PAGE == 0)
            with load.changing(TWO):
                stage.sandbox.scale("web", 2)
                stage.until_answers(TWO)
            disk.empty()
            with load.recovering(), load.changing(ALL):
                stage.sandbox.scale("web", 4)
                stage.until_answers(ALL)
        assert pid == stage.proxy_pid(), "the same process"
        stage.until(lambda: log.stat().st_size % PAGE)
        before = snapshot.stat().st_mtime_ns if snapshot.exists() else 0
        stage.kill_proxy(signal.SIGTERM)
        assert snapshot.stat().st_mtime_ns > before
        assert "Traceback" not in log.read_text()
