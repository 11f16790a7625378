# SPDX-License-Identifier: Apache-2.0
"""What --version prints: the Kubernetes release whose kube-proxy this stands in for, and our own.

Scripts that ask a kube-proxy read ``Kubernetes vX.Y.Z``; our own version stands behind it. Called
by ``cli``.
"""

from __future__ import annotations

import platform

from kubeproxy_bpf import __version__

KUBERNETES_VERSION = "v1.36.2"


def version_text(asked: str) -> str:
    """The line for a value of --version; empty if the process is to go on."""
    if asked == "true":
        return f"Kubernetes {KUBERNETES_VERSION} (kubeproxy-bpf {__version__})"
    if asked == "raw":
        major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
        return (
            f'version.Info{{Major:"{major}", Minor:"{minor}", '
            f'GitVersion:"{KUBERNETES_VERSION}+kubeproxy-bpf-{__version__}", '
            f'GitCommit:"", GitTreeState:"", BuildDate:"", '
            f'GoVersion:"", Compiler:"cpython{platform.python_version()}", '
            f'Platform:"linux/{platform.machine()}"}}'
        )
    return ""
