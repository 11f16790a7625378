# SPDX-License-Identifier: Apache-2.0
"""Containers on a node of the sandbox, made as container runtimes make them, without an engine.

A container has namespaces for mounts, processes, IPC and host name of its own, and the node's
network. A privileged one sees the node's control groups and has all capabilities; another sees its
own group, a read-only /sys and /proc/sys, and has the capabilities that it was given. No bpffs of
the node is visible unless it is mounted. ``container_init`` does the work inside. Used by the tests
of this folder and of ``tests/image``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Callable

from kubeproxy_bpf.sandbox.cluster import Sandbox
from kubeproxy_bpf.sandbox.process import Place
from tests.e2e.packaging.runtime_default import Refusal
from tests.mounting import own_mounts

_INIT = Path(__file__).with_name("container_init.py")
_UNSHARE = [*own_mounts(), "--pid", "--fork", "--kill-child"]
_UNSHARE += ["--uts", "--ipc", "--cgroup"]


@dataclass(frozen=True)
class Mount:
    """One volume: a path of the machine that runs the tests, and where the container sees it."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Container:
    """What a runtime is told by a kubelet."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    mounts: list[Mount] = field(default_factory=list)
    privileged: bool = False
    capabilities: list[str] = field(default_factory=list)
    """Without CAP_, lower case; a container that is not privileged has these and no others."""
    read_only_root: bool = False
    seccomp: bool = False
    """The profile of ``RuntimeDefault`` (``runtime_default``)."""
    refused_calls: list[Refusal] = field(default_factory=list)
    """With ``seccomp``: system calls that this container finds refused besides."""


@dataclass(frozen=True)
class Rootfs:
    """What a container's root directory is made of."""

    layers: list[str]
    """The topmost first."""
    shown: list[str] = field(default_factory=list)
    """Directories of the machine under the same path, read-only."""
    env: dict[str, str] = field(default_factory=dict)
    """What the image says; a pod may say otherwise."""
    programs: dict[str, str] = field(default_factory=dict)
    """Scripts that the container has and the layers have not."""


class NodeDirectory:
    """What of a node's file system containers can mount; survives them."""

    def __init__(self, sandbox: Sandbox, node: str) -> None:
        self.sandbox = sandbox
        self.node = node
        self.path = sandbox.directory / "node" / node
        for name in ("run/netns", "lib/modules", "sys/fs/cgroup", "sys/fs/bpf", "volumes"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        self.bpffs = sandbox.directory / "bpf" / f"host-{node}"
        self.bpffs.mkdir(exist_ok=True)

    @property
    def pods(self) -> dict[str, str]:
        """Network namespaces of the node's pods, by the name under /run/netns."""
        layout = self.sandbox.layout
        names = [layout.netns(pod.name) for pod in layout.pods if pod.node == self.node]
        return {name: f"/run/netns/{name}" for name in names}

    def show(self, host_path: str, kind: str = "") -> str:
        """The machine's path of a hostPath volume, made if its type asks for that."""
        path = self.path / host_path.lstrip("/")
        if kind == "FileOrCreate":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        elif kind == "DirectoryOrCreate":
            path.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            raise AssertionError(f"hostPath {host_path} is not on the node")
        return str(path)


class Running:
    """A container that runs; its log is a file."""

    def __init__(
        self, node: NodeDirectory, container: Container, rootfs: Rootfs, log: Path
    ) -> None:
        layout = node.sandbox.layout
        spec = asdict(container) | {
            "rootfs": asdict(rootfs),
            "env": rootfs.env | container.env,
            "node": str(node.path),
            "bpffs": str(node.bpffs),
            "netns": node.pods,
            "leaf": "host",
        }
        place = Place(
            layout.netns(node.node),
            node.sandbox.place("net").cgroup.parents[0] / node.node,
        )
        argv = [*_UNSHARE, sys.executable, "-I", "-S", str(_INIT), json.dumps(spec)]
        self.log = log
        with log.open("wb") as output:
            self.runtime = subprocess.Popen(
                place.launch(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def pid(self) -> int:
        """The container's first process, as the machine counts."""
        children = Path(f"/proc/{self.runtime.pid}/task/{self.runtime.pid}/children")
        return int(children.read_text().split()[0])

    @property
    def command(self) -> bytes:
        """The command line of the first process, empty before there is one."""
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except (OSError, IndexError):
            return b""

    def wait(self, timeout_s: float = 60.0) -> int:
        """Exit status of the container's first process."""
        return self.runtime.wait(timeout_s)

    def stop(self, grace_s: float = 30.0) -> int:
        """SIGTERM and, as a kubelet does, no longer than the grace period."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait(grace_s)

    def close(self) -> None:
        """End it whatever state it is in."""
        if self.runtime.poll() is None:
            self.runtime.kill()
        self.runtime.wait()

    def until(self, what: str, check: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait until something holds, and fail with the log when the container ends before."""
        deadline = time.monotonic() + timeout_s
        while not check():
            ended = self.runtime.poll() is not None
            if ended or time.monotonic() > deadline:
                fate = f"ended with {self.runtime.returncode}" if ended else "timed out"
                raise AssertionError(f"{what}: {fate}\n{self.log.read_text()[-6000:]}")
            time.sleep(0.05)
