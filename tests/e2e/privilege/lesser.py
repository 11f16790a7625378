# SPDX-License-Identifier: Apache-2.0
"""A node where proxies are started with fewer capabilities, calls or kernel features.

The proxy is the manifest's container with its real command line. What it lacks is taken away
outside of it: capabilities and system calls by the container, features of the kernel by another
copy of the types that the kernel shows (the programs are fitted to those, too). Only one question,
that for tcx, is answered by the kernel itself and nowhere else: there the program that is started
answers it before the proxy's own first line.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Collection

from kubeproxy_bpf.sandbox.probe import Target, ask
from tests.e2e.packaging.cluster import ROOT, Cluster, machine_rootfs
from tests.e2e.packaging.container import Container, Mount, Rootfs, Running
from tests.e2e.packaging.pods import MANIFESTS, NodePods, installed_objects, kustomized

NODE_PORT = 30090
_TYPES = "/sys/kernel/btf/vmlinux"
WITHOUT_TCX = "/usr/local/bin/kube-proxy-without-tcx"
_NO_TCX = (
    "from kubeproxy_bpf.dataplane import devicelink; devicelink.has_tcx = lambda: False; "
    "import sys; from kubeproxy_bpf.cli import main; sys.exit(main())"
)


def root_filesystem() -> Rootfs:
    """The machine's programs, and one more command."""
    script = f"#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -B -c '{_NO_TCX}' \"$@\"\n"
    rootfs = machine_rootfs()
    return replace(rootfs, programs=rootfs.programs | {WITHOUT_TCX: script})


class LesserNode:
    """Starts proxies, and asks through them."""

    def __init__(self, kube: Cluster, pods: NodePods) -> None:
        self.kube = kube
        self.pods = pods
        self._left = False

    def container(self, variant: str = "install") -> Container:
        """The manifest's."""
        _, (container,) = self.pods.containers(installed_objects(self.kube, variant))
        return container

    def serving(self, container: Container) -> Running:
        """Start a proxy that has to get as far as to serve a ClusterIP and a node port."""
        proxy = self.pods.start(container)
        self._left = True
        proxy.until("healthy", self.pods.healthy)
        proxy.until("attached", lambda: "uplinks_chosen" in proxy.log.read_text())
        proxy.until("serves", lambda: self.answers() == {"vip": "web", "node port": "web"})
        return proxy

    def answers(self) -> dict[str, str]:
        """Who answers a pod through a ClusterIP, and the outside client through a node port."""
        address = self.kube.sandbox.layout.addresses("node1").v4
        outside = partial(ask, Target("TCP", address, NODE_PORT), timeout_s=1.0)
        return {
            "vip": self.pods.asked("shell-1").split("-")[0],
            "node port": self.kube.sandbox.run_in("client", outside).split("-")[0],
        }

    def refused(self, container: Container) -> str:
        """Start a proxy that has to give up; return the line that says why."""
        status, log = self.pods.run_to_end(container)
        assert 1 == status, log
        (line,) = (each for each in log.splitlines() if "proxy_failed" in each)
        return line

    def clean_up(self) -> None:
        self.pods.close()
        if not self._left:
            return
        (cleanup,), _ = self.pods.containers(kustomized(MANIFESTS / "cleanup"))
        status, log = self.pods.run_to_end(cleanup)
        self.pods.close()
        assert 0 == status, log


def without(container: Container, *missing: str) -> Container:
    """The container with fewer capabilities, all of which it had."""
    assert set(missing) <= set(container.capabilities)
    kept = [name for name in container.capabilities if name not in missing]
    return replace(container, capabilities=kept)


def on_older_kernel(container: Container, missing: Collection[str], directory: Path) -> Container:
    """The container on a kernel whose types do not name these."""
    types = Path(_TYPES).read_bytes()
    for name in missing:
        known = b"\0" + name.encode() + b"\0"
        assert types.count(known) == 1, name
        types = types.replace(known, b"\0" + name[:-1].encode() + b"?\0")
    copy = directory / "vmlinux"
    copy.write_bytes(types)
    return replace(container, mounts=[*container.mounts, Mount(str(copy), _TYPES, True)])


def process_status(proxy: Running) -> dict[str, Any]:
    """What the kernel says of the container's process."""
    lines = Path(f"/proc/{proxy.pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
