# SPDX-License-Identifier: Apache-2.0
"""Which features of the kernel may be used, what each is for, and whether we can do without.

The kernel's own type information names its helpers, hooks and map types, so few things have to be
tried out; that the programs load in the end is for ``loader`` to find. Called at the start and by
the command line tool.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, NamedTuple

from kubeproxy_bpf.dataplane import membarrier
from kubeproxy_bpf.dataplane.mounts import find_cgroup_root
from kubeproxy_bpf.dataplane.privileges import STATUS, effective, privileges
from kubeproxy_bpf.dataplane.settings import netns_cookie
from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.libbpf import BpfMap, LibbpfError, MapType

_BTF = Path("/sys/kernel/btf/vmlinux")


class Feature(NamedTuple):
    """Something that a kernel may have, or that this process may be allowed."""

    name: str
    present: bool
    purpose: str
    """What it is for, and if it is not necessary what happens without it."""
    necessary: bool
    since: str = ""
    """The Linux that has it, where it is younger than 5.10."""


class _Named(NamedTuple):
    """What the kernel's own types name."""

    name: str
    purpose: str
    fallback: str = ""
    """What happens without it; nothing here: the proxy does not start."""
    since: str = ""


_NAMED = (
    _Named("BPF_CGROUP_INET4_CONNECT", "translates connect()"),
    _Named("BPF_CGROUP_UDP4_SENDMSG", "translates datagrams"),
    _Named("BPF_CGROUP_UDP4_RECVMSG", "shows answers as the VIP's"),
    _Named("BPF_CGROUP_INET4_GETPEERNAME", "shows the VIP as the peer"),
    _Named("BPF_CGROUP_INET_SOCK_RELEASE", "forgets closed sockets"),
    _Named("BPF_MAP_TYPE_SK_STORAGE", "keeps state in sockets"),
    _Named("BPF_F_MMAPABLE", "publishes a Service by one store"),
    _Named("BPF_FUNC_get_netns_cookie", "tells host and pods apart"),
    _Named("BPF_FUNC_ktime_get_coarse_ns", "session affinity", since="5.11"),
    _Named("BPF_FUNC_loop", "looks through large Services", "256 endpoints of each", "5.17"),
    _Named(
        "BPF_FUNC_skc_to_mptcp_sock",
        "shows the VIP to MPTCP sockets",
        "they see the backend",
        "5.19",
    ),
    _Named(
        "BPF_FUNC_set_retval",
        "refuses with an errno of the network",
        "left to the packet path, which answers",
        "5.18",
    ),
    # The instruction is of 5.12, and has no name; this function came when all machines had it.
    _Named(
        "BPF_FUNC_ima_file_hash",
        "one of two processors ends a flow, by an atomic instruction",
        "by a plain store, so that both may in a rare moment",
        "5.18",
    ),
    _Named(
        "BPF_FUNC_xdp_get_buff_len", "XDP for frames in fragments", "XDP for others, or TC", "5.18"
    ),
    _Named(
        "bpf_skb_ct_lookup",
        "connections of a kube-proxy go on after it, by module nf_conntrack",
        "they are reset",
        "5.18",
    ),
    _Named("bpf_cast_to_kern_ctx", "tells IPv6-only listeners apart", "they count as both", "6.2"),
    _Named(
        "NETDEV_A_DEV_XDP_FEATURES",
        "XDP redirects to other devices",
        "XDP turns frames around where they came from",
        "6.3",
    ),
    _Named("bpf_sock_destroy", "aborts UDP sockets of removed backends", "sock_diag does", "6.5"),
    _Named("BPF_TCX_INGRESS", "packet programs stand first at devices", "filters of clsact", "6.6"),
)


def probe_kernel(
    btf: Path = _BTF,
    mountinfo: Path = Path("/proc/self/mountinfo"),
    status: Path = STATUS,
) -> list[Feature]:
    """Return every feature that the proxy asks for, present or not."""
    features = [
        Feature(each.name, each.held, each.purpose, each.necessary)
        for each in privileges(effective(status))
    ]
    features += [
        Feature(
            "bpf(2)",
            _may_use_bpf(),
            "loads programs; it takes capabilities of the host's user namespace, and a seccomp "
            "profile that lets it pass",
            True,
        ),
        Feature("cgroup v2", _has_cgroup(mountinfo), "the hooks attach to it; mount it", True),
        Feature(
            "SO_NETNS_COOKIE",
            _tells_netns_cookie(),
            "tells whose sockets are ours (Linux 5.14)",
            True,
            "5.14",
        ),
        Feature("BTF", btf.exists(), "fits programs to the kernel (CONFIG_DEBUG_INFO_BTF)", True),
        Feature("membarrier(2)", membarrier.offers_grace(), _MEMBARRIER, False),
    ]
    return features + list(_named(btf))


_MEMBARRIER = "waits for programs that run; else a map of maps does, ten times as long"


def _named(btf: Path) -> Iterator[Feature]:
    """What the types of the kernel, and of the module that has connection tracking, name."""
    files = [btf, btf.with_name("nf_conntrack")]
    types = b"".join(file.read_bytes() for file in files if file.exists())
    for name, purpose, fallback, since in _NAMED:
        present = b"\0" + name.encode() + b"\0" in types
        version = f" (Linux {since})" if since else ""
        instead = f"; else {fallback}" if fallback else ""
        yield Feature(name, present, purpose + version + instead, not fallback, since)


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
