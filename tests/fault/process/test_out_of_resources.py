# SPDX-License-Identifier: Apache-2.0
"""No descriptors, no memory, no room on the disk: who is served stays served, and it mends."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Iterator

import pytest

from kubeproxy_bpf.libbpf import AttachType, device_chain
from tests.fault.load.offered import under_load
from tests.fault.load.stage import ALL, Stage, service
from tests.fault.process.churn import Churn
from tests.fault.process.limits import memory_group, small_disk

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

TWO = frozenset({"web-1", "web-2"})
PROXY = str(Path(sys.executable).with_name("kube-proxy"))
MEGABYTE = 1 << 20
PAGE = 4096
NO_DESCRIPTORS, READ_ONLY = os.strerror(errno.EMFILE), os.strerror(errno.EROFS)


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
def test_killed_for_lack_of_memory(bare_stage):
    """The kernel ends the process in the middle of a change: what it wrote serves on."""
    stage = bare_stage
    with memory_group(f"kpbt-m{os.getpid()}") as group:
        stage.want_proxy(command=group.command(PROXY))
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
def test_nothing_can_be_pinned(stage):
    """A device that comes while the pins are read-only is served once they are not any more."""
    pins = stage.sandbox.directory / "bpf"
    log = len(stage.log())
    with stage.load() as load:
        remount(pins, "ro")
        try:
            with device_that_comes(stage):
                stage.until(lambda: READ_ONLY in stage.log()[log:])
                with load.changing(TWO):
                    stage.sandbox.scale("web", 2)
                    stage.until_answers(TWO)
                remount(pins, "rw")
                with load.recovering():
                    stage.sandbox.exec("node1", "ip link set v-late mtu 1400".split())
                    stage.until(lambda: programs_at(stage, "v-late"))
        finally:
            remount(pins, "rw")


@under_load
def test_no_room_for_log_and_snapshot(bare_stage):
    """What cannot be written is not; the proxy follows as ever, and writes when there is room."""
    stage = bare_stage
    with small_disk(stage.sandbox.directory / "disk") as disk:
        log, snapshot = disk.directory / "log", disk.directory / "snapshot"
        script = f'exec {PROXY} "$@" 2>{log}'
        stage.end_proxies()
        flags = ("-v=4", f"--bpf-snapshot-path={snapshot}")
        stage.start_proxy(*flags, command=f"sh -c '{script}' logged")
        stage.until(lambda: log.exists() and "datapath_at_work" in log.read_text())
        stage.until_served()
        pid = stage.proxy_pid()
        with stage.load() as load:
            disk.fill()
            with Churn(stage):
                stage.until(lambda: log.stat().st_size % PAGE == 0)
            with load.changing(TWO):
                stage.sandbox.scale("web", 2)
                stage.until_answers(TWO)
            before = snapshot.stat().st_mtime_ns if snapshot.exists() else 0
            disk.empty()
            with load.recovering(), load.changing(ALL):
                stage.sandbox.scale("web", 4)
                stage.until_answers(ALL)
        assert pid == stage.proxy_pid(), "the same process"
        stage.until(lambda: log.stat().st_size % PAGE)
        stage.kill_proxy(signal.SIGTERM)
        assert snapshot.stat().st_mtime_ns > before
        assert "Traceback" not in log.read_text()


def remount(directory: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,bind,{how}", str(directory)], check=True)


def programs_at(stage: Stage, device: str) -> int:
    """How many programs take what comes in at a device of node1."""
    return stage.sandbox.run_in("node1", partial(_programs_at, device))


def _programs_at(device: str) -> int:
    return len(device_chain(socket.if_nametoindex(device), AttachType.TCX_INGRESS))
