# SPDX-License-Identifier: Apache-2.0
"""Command lines of the programs that run in a sandbox. Nothing is started here."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from kubeproxy_bpf.sandbox.errors import SandboxError
from kubeproxy_bpf.sandbox.layout import API_PORT, BACKEND_PORT, SERVICE_CIDRS, Layout, Pod


def api_server(layout: Layout) -> list[str]:
    """The embedded API server; its controller makes EndpointSlices from Services and Pods."""
    argv = [sys.executable, "-m", "kubeproxy_bpf.sandbox.apiserver", "--controller"]
    argv += ["--listen", f"{layout.gateway.v4}:{API_PORT}"]
    return argv + [f"--service-cidr={cidr}" for cidr in SERVICE_CIDRS]


def backend(pod: Pod) -> list[str]:
    """A pod's server; without site packages, so that it starts in a moment."""
    script = str(Path(__file__).with_name("backend.py"))
    return [sys.executable, "-I", "-S", script, pod.name, str(BACKEND_PORT)]


def proxy(node: str, kubeconfig: Path, command: str = "") -> list[str]:
    """The kube-proxy of a node, or another command in its place with the same flags."""
    program = shlex.split(command) if command else [_installed_proxy()]
    return [*program, f"--kubeconfig={kubeconfig}", f"--hostname-override={node}"]


def _installed_proxy() -> str:
    """The kube-proxy that is installed beside this interpreter, else the one on the path."""
    beside = Path(sys.executable).with_name("kube-proxy")
    found = str(beside) if beside.exists() else shutil.which("kube-proxy")
    if not found:
        raise SandboxError("the program kube-proxy is not installed beside this interpreter")
    return found
