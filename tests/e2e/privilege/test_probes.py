# SPDX-License-Identifier: Apache-2.0
"""Each feature that the proxy asks the kernel for, missing: it serves otherwise, or says why not.

What the probe finds in the kernel's types is taken out of the types; what it asks by a system call
is refused by the container's filter.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from kubeproxy_bpf.dataplane.probe import Feature, probe_kernel
from tests.e2e.packaging.container import Container, Mount
from tests.e2e.packaging.runtime_default import Refusal
from tests.e2e.privilege.lesser import WITHOUT_TCX, LesserNode, on_older_kernel

pytestmark = pytest.mark.root

_GETSOCKOPT_NAME, _SO_NETNS_COOKIE = 2, 71
_MEMBARRIER = "membarrier(2)"
_TCX = "BPF_TCX_INGRESS"
_REFUSED = {
    "bpf(2)": Refusal("bpf", errno.EPERM),
    "SO_NETNS_COOKIE": Refusal("getsockopt", errno.ENOPROTOOPT, _GETSOCKOPT_NAME, _SO_NETNS_COOKIE),
    _MEMBARRIER: Refusal("membarrier", errno.ENOSYS),
}


def _features() -> list[Feature]:
    # Capabilities have a test of their own; without cgroup v2 there is no sandbox either.
    known = (each for each in probe_kernel() if not each.name.startswith(("CAP_", "cgroup")))
    return [each for each in known if each.present]


FEATURES = _features()
NECESSARY = [each for each in FEATURES if each.necessary]
DISPENSABLE = [each for each in FEATURES if not each.necessary]


@pytest.mark.parametrize("feature", NECESSARY, ids=lambda feature: feature.name)
def test_what_is_necessary_is_named(node: LesserNode, tmp_path: Path, feature: Feature) -> None:
    """Without it the proxy ends before it changes anything, with the feature and its use."""
    line = node.refused(lacking(node.container(), [feature.name], tmp_path))
    assert f"{feature.name} is not available: " in line


def test_without_all_that_is_dispensable_services_are_served(
    node: LesserNode, tmp_path: Path
) -> None:
    """A kernel that has nothing but the necessary serves a ClusterIP and a node port, and the log
    names each feature with what happens instead; a restart finds what is attached."""
    names = [feature.name for feature in DISPENSABLE]
    container = lacking(node.container(), names, tmp_path)
    proxy = node.serving(container)

    told = _told(proxy.log.read_text())
    assert {feature.name: feature.purpose for feature in DISPENSABLE} == told
    assert 0 == proxy.stop()
    assert {"vip": "web", "node port": "web"} == node.answers()
    node.serving(container)


@pytest.mark.parametrize("feature", DISPENSABLE, ids=lambda feature: feature.name)
def test_one_fallback_needs_no_other(node: LesserNode, tmp_path: Path, feature: Feature) -> None:
    """Each feature alone can be missing."""
    proxy = node.serving(lacking(node.container(), [feature.name], tmp_path))
    assert {feature.name} == _told(proxy.log.read_text()).keys()


def lacking(container: Container, names: list[str], directory: Path) -> Container:
    """The container where none of these features is found."""
    calls = [_REFUSED[name] for name in names if name in _REFUSED]
    container = replace(container, refused_calls=calls)
    if "BTF" in names:
        return replace(
            container, mounts=[*container.mounts, Mount(str(directory), "/sys/kernel/btf", True)]
        )
    if _TCX in names:
        container = replace(container, argv=[WITHOUT_TCX, *container.argv[1:]])
    return on_older_kernel(container, [n for n in names if n not in _REFUSED], directory)


def _told(log: str) -> dict[str, str]:
    """What the log says of missing features: their names and the consequence."""
    lines = (line.split("feature=")[1] for line in log.splitlines() if "kernel_feature_" in line)
    pairs = (line.split(" use=") for line in lines)
    return {name.strip("'\""): use.strip("'\"") for name, use in pairs}
