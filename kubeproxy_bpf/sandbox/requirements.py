# SPDX-License-Identifier: Apache-2.0
"""What a machine needs before a sandbox is begun: one sentence for the first thing that lacks.

Checked before anything is made, so that a machine that cannot carry a sandbox is left as it was.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.sandbox import cgroup
from kubeproxy_bpf.sandbox.errors import SandboxError

_PROGRAMS = {"ip": "iproute2", "bridge": "iproute2", "nsenter": "util-linux"}


def check() -> None:
    """Raise for the first thing that is missing."""
    check_root()
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            raise SandboxError(f"the program {program} is missing: install {package}")
    if not Path("/proc/self/ns/net").exists():
        raise UnsupportedKernel("network namespaces", "a kernel built with CONFIG_NET_NS")
    if not Path("/proc/sys/net/ipv6").exists():
        raise UnsupportedKernel("IPv6", "the sandbox is dual stack; boot without ipv6.disable")
    if "\tbpf\n" not in Path("/proc/filesystems").read_text():
        raise UnsupportedKernel("the BPF file system", "a kernel built with CONFIG_BPF_SYSCALL")
    if not os.access(cgroup.mount_point(), os.W_OK):
        raise SandboxError(f"{cgroup.mount_point()} (cgroup v2) is read-only here")


def check_root() -> None:
    if os.geteuid() != 0:
        raise SandboxError("the sandbox makes network namespaces and loads BPF: run it as root")
