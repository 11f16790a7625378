# SPDX-License-Identifier: Apache-2.0
"""What is in the image, and what is not."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Iterator

import pytest

from tests.e2e.packaging.cluster import Cluster
from tests.e2e.packaging.container import Container, Rootfs
from tests.e2e.packaging.pods import NodePods, node_pods

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

PACKAGE = "/opt/kubeproxy-bpf/lib/python3.11/site-packages/kubeproxy_bpf"
MIB = 1 << 20


def find(rootfs: Rootfs, path: str) -> Path | None:
    """A file of the image, from the topmost layer that has it."""
    for layer in rootfs.layers:
        found = Path(layer, path.lstrip("/"))
        if found.is_symlink() or found.exists():
            return found
    return None


@pytest.fixture
def node1(kube: Cluster, rootfs: Rootfs) -> Iterator[NodePods]:
    with node_pods(kube, "node1", rootfs) as pods:
        yield pods


@pytest.mark.parametrize(
    "path",
    [
        "/usr/local/bin/kube-proxy",
        f"{PACKAGE}/obj/kube_proxy.bpf.o",
        f"{PACKAGE}/obj/packets.bpf.o",
        f"{PACKAGE}/obj/sock_destroy.bpf.o",
        "/usr/sbin/iptables-nft",
        "/usr/sbin/iptables-legacy",
        "/usr/sbin/nft",
        "/usr/sbin/modprobe",
        "/etc/ssl/certs/ca-certificates.crt",
    ],
)
def test_the_image_has(rootfs: Rootfs, path: str) -> None:
    """What the proxy runs, loads or calls is there."""
    assert find(rootfs, path) or find(rootfs, path.removeprefix("/usr"))


@pytest.mark.parametrize("name", ["cc", "gcc", "clang", "clang-14", "make", "pip", "pip3", "git"])
def test_the_image_has_no_compiler(rootfs: Rootfs, name: str) -> None:
    """Nothing that compiles or installs is shipped."""
    for directory in ("/usr/bin", "/usr/local/bin", "/opt/kubeproxy-bpf/bin"):
        assert not find(rootfs, f"{directory}/{name}")


def test_all_modules_are_compiled_and_stay_valid(rootfs: Rootfs) -> None:
    """Bytecode is there for each module, and no time stamp decides whether it counts."""
    package = find(rootfs, PACKAGE)
    assert package is not None
    modules = list(package.rglob("*.py"))
    assert len(modules) > 50
    for module in modules:
        compiled = Path(importlib.util.cache_from_source(str(module)))
        # PEP 552: bit 0 says that a hash takes the place of the time stamp, bit 1 to check it.
        assert b"\x01\0\0\0" == compiled.read_bytes()[4:8]


def test_the_image_is_slim(rootfs: Rootfs) -> None:
    """What is put on top of Debian stays below 250 MiB."""
    added = [path for layer in rootfs.layers[:-1] for path in Path(layer).rglob("*")]
    size = sum(path.lstat().st_size for path in added if path.is_file() or path.is_symlink())
    assert size < 250 * MIB


def test_the_program_runs_with_nothing_but_the_image(node1: NodePods) -> None:
    """Without capabilities, mounts or a writable root it still says its version."""
    container = Container(["/usr/local/bin/kube-proxy", "--version"], read_only_root=True)

    status, output = node1.run_to_end(container)

    assert 0 == status
    assert output.startswith("Kubernetes v")
