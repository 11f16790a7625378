# SPDX-License-Identifier: Apache-2.0
"""``Sandbox``: the whole small cluster as one object. Used by the command, the demo and the tests.

Building happens here, in the order that ``teardown`` undoes; what may exist on the machine at any
moment is in the journal. A build that fails takes itself down again; one that is killed leaves the
rest to ``down``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Callable, Iterable, Sequence, TypeVar

import yaml

from kubeproxy_bpf.sandbox import (
    cgroup,
    inventory,
    namespace,
    programs,
    requirements,
    topology,
)
from kubeproxy_bpf.sandbox.apiclient import ApiClient, read_manifests
from kubeproxy_bpf.sandbox.errors import Clash, NotUp, SandboxError
from kubeproxy_bpf.sandbox.health import healthy
from kubeproxy_bpf.sandbox.journal import Journal, Record, claim, directory
from kubeproxy_bpf.sandbox.layout import (
    BACKEND_PORT,
    Layout,
    Node,
    Topology,
    check_name,
)
from kubeproxy_bpf.sandbox.probe import Target, ask
from kubeproxy_bpf.sandbox.process import Place, parent_of, run_in, spawn
from kubeproxy_bpf.sandbox.teardown import take_down

T = TypeVar("T")

READY_TIMEOUT_S = 120.0
_POLL_S = 0.02


@dataclass(frozen=True)
class Options:
    """What runs in a sandbox besides its backends."""

    api: bool = True
    proxy: bool = True
    api_flags: tuple[str, ...] = ()
    """More flags for the API server, such as ``--admin`` to ask it for faults."""
    proxy_command: str = ""
    """Replaces the kube-proxy program; the usual arguments are appended."""
    proxy_flags: tuple[str, ...] = ()
    """More flags for every proxy; they come last, so they win over the sandbox's own."""


class Sandbox:
    """A sandbox that stands, by name. ``Sandbox.up`` builds one, ``Sandbox.find`` finds one."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.directory = directory(layout.name)
        self.api = ApiClient(layout)
        self._root = cgroup.mount_point()
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    @classmethod
    def up(
        cls, name: str = "kpb", topology: Topology = "routed", options: Options = Options()
    ) -> Sandbox:
        """Build a sandbox and wait until everything in it answers."""
        problem = check_name(name)
        if problem:
            raise SandboxError(problem)
        requirements.check()
        layout, journal = claim(name, topology)
        sandbox = cls(layout)
        try:
            sandbox._build(journal)
            sandbox._start(options)
            journal.mark_up()
        except BaseException:
            sandbox.down()
            raise
        return sandbox

    @classmethod
    def find(cls, name: str) -> Sandbox:
        """Find a sandbox that another process built."""
        journal = Journal(name)
        layout = journal.layout()
        if layout is None or not journal.is_up():
            raise NotUp(name)
        return cls(layout)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def down(self) -> list[str]:
        """Remove everything; returns a sentence for each thing that was not ours and stays."""
        kept = take_down(self.layout.name)
        for process in self._started.values():
            process.wait()
        self._started.clear()
        return kept

    def _build(self, journal: Journal) -> None:
        for name in self.layout.cgroups:
            if (self._root / name).exists():
                raise Clash("control group", name)
            journal.write(Record("cgroup", name, 0))
            cgroup.create(self._root, name)
        bpffs = self.directory / "bpf"
        bpffs.mkdir()
        journal.write(Record("bpffs", str(bpffs), 0))
        namespace.mount("bpf", str(bpffs), "bpf")
        namespace.prepare()
        for place in self.layout.places:
            name = self.layout.netns(place)
            namespace.create(
                name,
                partial(_promise_netns, journal, name),
                topology.settings(place, self.layout),
            )
        topology.wire(self.layout)

    def _start(self, options: Options) -> None:
        (self.directory / "log").mkdir()
        config = yaml.safe_dump(inventory.kubeconfig(self.layout))
        self.kubeconfig.write_text(config)
        if options.api:
            argv = [*programs.api_server(self.layout), *options.api_flags]
            self._spawn("apiserver", "net", argv)
        for pod in self.layout.pods:
            if pod.serves:
                self._spawn("backend", pod.name, programs.backend(pod))
        if options.api:
            self._wait("the API server", "apiserver-net", self.api.is_ready)
            for manifest in inventory.manifests(self.layout):
                self.api.apply(manifest)
        if options.api and options.proxy:
            for node in self.layout.nodes:
                self.start_proxy(node.name, options.proxy_command, options.proxy_flags)
        self.wait_ready()

    def _spawn(self, program: str, place: str, argv: Sequence[str]) -> None:
        key = f"{program}-{place}"
        log = self.directory / "log" / f"{key}.log"
        self._started[key] = spawn(self.place(place), argv, log)

    @property
    def kubeconfig(self) -> Path:
        """Client configuration for programs that run in the sandbox."""
        return self.directory / "kubeconfig"

    def place(self, name: str) -> Place:
        """Namespace and control group of ``net``, a node, ``client`` or a pod."""
        if name not in self.layout.places:
            raise SandboxError(f"no place {name!r}: there are {', '.join(self.layout.places)}")
        return Place(self.layout.netns(name), self._root / self.layout.cgroup(name))

    def exec(self, place: str, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a program in a place to its end and return what it wrote."""
        return subprocess.run(self.place(place).launch(argv), capture_output=True, text=True)

    def run_in(self, place: str, function: Callable[[], T]) -> T:
        """Run a Python function in a place, in a forked child; its answer must be picklable."""
        return run_in(self.place(place), function)

    def start_proxy(self, node: str, command: str = "", flags: Sequence[str] = ()) -> None:
        """Start the kube-proxy of a node; more flags come last, so they win over ours."""
        group = self._root / self.layout.node_cgroup(node)
        argv = programs.proxy(node, self.kubeconfig, command)
        argv += [f"--bpf-cgroup-root={group}", f"--bpf-pin-path={self.pin_path(node)}"]
        argv += [f"--cluster-cidr={','.join(self.layout.pod_network)}"]
        self._spawn("kube-proxy", node, [*argv, *flags])

    def restart_proxy(self, node: str, command: str = "") -> None:
        """End the kube-proxy of a node, if it runs, and start one; return when it is healthy."""
        if node not in self.layout.node_names:
            raise SandboxError(f"no node {node!r}: there are {', '.join(self.layout.node_names)}")
        deadline = time.monotonic() + READY_TIMEOUT_S
        for pid in self.proxy_pids(node):
            os.kill(pid, signal.SIGTERM)
        while self.proxy_pids(node):
            if time.monotonic() > deadline:
                raise SandboxError(f"kube-proxy on {node} does not end: {self.proxy_pids(node)}")
            time.sleep(_POLL_S)
        self.start_proxy(node, command)
        self.wait_ready()

    def pin_path(self, node: str) -> Path:
        """Where the proxy of a node pins its maps and links."""
        return self.directory / "bpf" / node

    def proxy_pids(self, node: str) -> list[int]:
        """Processes of the node's own group; the proxy is the only one that the sandbox starts.

        What these start for a moment, to prove their hooks, is not meant.
        """
        found = cgroup.members(self._root / self.layout.cgroup(node))
        return [pid for pid in found if parent_of(pid) not in (*found, None)]

    def apply(self, paths: Iterable[Path]) -> list[inventory.Manifest]:
        """Post all objects of some manifest files or directories."""
        return [self.api.apply(manifest) for manifest in read_manifests(paths)]

    def scale(self, app: str, replicas: int) -> None:
        """Let the first so many pods of an app exist, as a Deployment would."""
        nodes: dict[str, Node] = {node.name: node for node in self.layout.nodes}
        there = {pod["metadata"]["name"] for pod in self.api.list("Pod")}
        pods = [pod for pod in self.layout.pods if pod.app == app]
        if not pods:
            apps = sorted({pod.app for pod in self.layout.pods if pod.serves})
            raise SandboxError(f"no app {app!r}: there are {', '.join(apps)}")
        if not 0 <= replicas <= len(pods):
            raise SandboxError(f"app {app} can have 0 to {len(pods)} pods, not {replicas}")
        for position, pod in enumerate(pods):
            manifest = inventory.pod_manifest(pod, nodes[pod.node])
            if position < replicas and pod.name not in there:
                self.api.apply(manifest)
            elif position >= replicas and pod.name in there:
                self.api.delete(manifest)

    def wait_ready(self) -> None:
        """Wait until every backend, and every proxy that was started here, answers."""
        for key in self._started:
            program, _, place = key.partition("-")
            if program == "backend":
                target = Target("TCP", self.layout.addresses(place).v4, BACKEND_PORT)
                check = partial(self._answers, place, target)
                self._wait(f"the backend in {place}", key, check)
            elif key.startswith("kube-proxy-"):
                node = key.removeprefix("kube-proxy-")
                check = partial(healthy, self.layout.netns(node))
                self._wait(f"kube-proxy on {node}", key, check)

    def _answers(self, place: str, target: Target) -> bool:
        return namespace.call(self.layout.netns(place), lambda: ask(target)) == place

    def _wait(self, what: str, key: str, check: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not check():
            ended = self._started[key].poll() is not None
            if ended or time.monotonic() > deadline:
                fate = "ended at once" if ended else "does not answer"
                raise SandboxError(f"{what} {fate}: {self._last_words(key)}")
            time.sleep(_POLL_S)

    def _last_words(self, key: str) -> str:
        """The end of a program's log, which goes away with a failed sandbox."""
        text = (self.directory / "log" / f"{key}.log").read_text(errors="replace").strip()
        return text[-2000:] or "it wrote nothing"


def _promise_netns(journal: Journal, name: str, inode: int) -> None:
    journal.write(Record("netns", name, inode))
