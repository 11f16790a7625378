# SPDX-License-Identifier: Apache-2.0
"""What every component of Kubernetes says of itself: its version and its feature gates.

Called by ``telemetry``; the gates are decided by ``config.gates``.
"""

from __future__ import annotations

import platform
from typing import Iterator, Mapping

from kubeproxy_bpf import __version__
from kubeproxy_bpf.config.gates import MEANINGFUL, enabled
from kubeproxy_bpf.config.version import KUBERNETES_VERSION
from kubeproxy_bpf.metering import Family

_STAGES = {
    "AllowServiceExternalIPs": "",
    "ComponentFlagz": "BETA",
    "ComponentStatusz": "BETA",
    "LoggingAlphaOptions": "ALPHA",
}
_ALWAYS_ON = ("MultiCIDRServiceAllocator", "PreferSameTrafficDistribution")
_BUILD = (
    "build_date",
    "compiler",
    "git_commit",
    "git_tree_state",
    "git_version",
    "go_version",
    "major",
    "minor",
    "platform",
)


def families(gates: Mapping[str, bool]) -> Iterator[Family]:
    """``gates`` as configured."""
    yield _build_info()
    stages = {name: _STAGES.get(name, "") for name in MEANINGFUL}
    on = {(name, stage): float(enabled(gates, name)) for name, stage in stages.items()}
    yield Family(
        "kubernetes_feature_enabled",
        "gauge",
        "[BETA] Feature gates that mean something to this proxy, and their stages",
        ("name", "stage"),
        {**on, **{(name, ""): 1.0 for name in _ALWAYS_ON}},
    )


def _build_info() -> Family:
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    values = {
        "compiler": platform.python_implementation(),
        "git_tree_state": "clean",
        # Alerts compare the first two numbers among the components of a cluster.
        "git_version": f"{KUBERNETES_VERSION}+kubeproxy-bpf-{__version__}",
        "go_version": "",
        "major": major,
        "minor": minor,
        "platform": f"linux/{machine}",
    }
    return Family(
        "kubernetes_build_info",
        "gauge",
        "[BETA] Always 1; labels tell what runs",
        _BUILD,
        {tuple(values.get(name, "") for name in _BUILD): 1.0},
    )
