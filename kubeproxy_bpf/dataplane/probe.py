# SPDX-License-Identifier: Apache-2.0
"""Which features of the kernel are there, what each is for, and whether we can do without.

The kernel's own type information names its helpers, hooks and map types, so few things have to be
tried out; that the programs load in the end is for ``loader`` to find. Called at the start and by
the command line tool.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from kubeproxy_bpf.dataplane.mounts import find_cgroup_root
from kubeproxy_bpf.dataplane.settings import netns_cookie
from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.libbpf import BpfMap, LibbpfError, MapType

_BTF = Path("/sys/kernel/btf/vmlinux")


class Feature(NamedTuple):
    """Something that a kernel may have."""

    name: str
    present: bool
    purpose: str
    """What it is for, and if it is not necessary what happens without it."""
    necessary: bool


_NAMED = (
    # (name in the kernel's types, what it is for, necessary)
    ("BPF_CGROUP_INET4_CONNECT", "translates connect()", True),
    ("BPF_CGROUP_UDP4_SENDMSG", "translates datagrams", True),
    ("BPF_CGROUP_UDP4_RECVMSG", "shows answers as the VIP's", True),
    ("BPF_CGROUP_INET4_GETPEERNAME", "shows the VIP as the peer (Linux 5.8)", True),
    ("BPF_CGROUP_INET_SOCK_RELEASE", "forgets closed sockets (Linux 5.9)", True),
    ("BPF_MAP_TYPE_SK_STORAGE", "keeps state in sockets", True),
    ("BPF_F_MMAPABLE", "publishes a Service by one store", True),
    ("BPF_FUNC_ktime_get_coarse_ns", "session affinity (Linux 5.11)", True),
    ("BPF_FUNC_get_netns_cookie", "tells host and pods apart", True),
    (
        "BPF_FUNC_set_retval",
        "refuses with an errno of the network (Linux 5.18); else left to the packet path",
        False,
    ),
    ("BPF_FUNC_loop", "looks through large Services (5.17); else 256 endpoints of each", False),
    ("BPF_FUNC_skc_to_mptcp_sock", "shows the VIP to MPTCP sockets; else the backend", False),
    ("bpf_sock_destroy", "aborts UDP sockets of removed backends (6.5); else sock_diag", False),
    ("BPF_TCX_INGRESS", "packet programs stand first at devices (6.6); else by filters", False),
    ("bpf_cast_to_kern_ctx", "tells IPv6-only listeners apart; else counted as both", False),
)


def probe_kernel(btf: Path = _BTF, mountinfo: Path = Path("/proc/self/mountinfo")) -> list[Feature]:
    """Return every feature that the proxy asks for, present or not."""
    features = [
        Feature(
            "bpf(2)", _may_use_bpf(), "root, or CAP_BPF with CAP_NET_ADMIN and CAP_PERFMON", True
        ),
        Feature("cgroup v2", _has_cgroup(mountinfo), "the hooks attach to it; mount it", True),
        Feature(
            "SO_NETNS_COOKIE",
            _tells_netns_cookie(),
            "tells whose sockets are ours (Linux 5.14)",
            True,
        ),
        Feature("BTF", btf.exists(), "fits programs to the kernel (CONFIG_DEBUG_INFO_BTF)", True),
    ]
    types = btf.read_bytes() if btf.exists() else b""
    for name, purpose, necessary in _NAMED:
        present = b"\0" + name.encode() + b"\0" in types
        features.append(Feature(name, present, purpose, necessary))
    return features


def require(features: list[Feature]) -> None:
    """Raise UnsupportedKernel for the first necessary feature that is missing."""
    for feature in features:
        if feature.necessary and not feature.present:
            raise UnsupportedKernel(feature.name, feature.purpose)


def _may_use_bpf() -> bool:
    try:
        BpfMap.create(MapType.ARRAY, "kpb_probe", 4, 4, 1).close()
    except LibbpfError:
        return False
    return True


def _tells_netns_cookie() -> bool:
    try:
        netns_cookie()
    except OSError:
        return False
    return True


def _has_cgroup(mountinfo: Path) -> bool:
    try:
        find_cgroup_root(mountinfo)
    except UnsupportedKernel:
        return False
    return True
