# SPDX-License-Identifier: Apache-2.0
"""Limits and time-outs of the kernel's own connection tracking, set once at the start [J8-J10].

Own flows do not need them; what netfilter tracks on the node (pods that leave it, what goes through
the stack) does, and an operator who set them for kube-proxy expects them. Written only where
different, in kube-proxy's order, and before anything is programmed. A refusal ends the process as
it ends kube-proxy, with two exceptions, which are logged: the two limits belong to the initial
network namespace, so elsewhere nobody can set them; and a read-only /sys keeps its hash size.
Called by ``app`` and ``init``, in a thread.
"""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path
from typing import Callable, NamedTuple

import structlog

from kubeproxy_bpf.config.schema import ConntrackSysctls
from kubeproxy_bpf.errors import SysctlRefused
from kubeproxy_bpf.host.cpus import cpu_count
from kubeproxy_bpf.host.ctnetlink import ask_for_module

SYSCTLS = Path("/proc/sys/net/netfilter")
HASH_SIZE = Path("/sys/module/nf_conntrack/parameters/hashsize")

_MAX = "nf_conntrack_max"
_CAP = 1 << 20
"""What the number of processors asks for never exceeds it."""

_log = structlog.get_logger(__name__)


class Kept(NamedTuple):
    """A value that is not as wanted, and stays so."""

    path: Path
    wanted: int
    reason: str


def conntrack_max(wanted: ConntrackSysctls, cpus: int) -> int:
    """Entries that conntrack should have room for; 0: leave it as it is.

    Beyond the cap it is the cap, even if the minimum is larger.
    """
    if wanted.max_per_core <= 0:
        return 0
    scaled = wanted.max_per_core * cpus
    if scaled > _CAP:
        return _CAP
    return max(wanted.min, scaled)


def time_outs(wanted: ConntrackSysctls) -> dict[str, int]:
    """Sysctls other than the limits, in the order in which they are written."""
    seconds = {
        "nf_conntrack_tcp_timeout_established": wanted.tcp_established_s,
        "nf_conntrack_tcp_timeout_close_wait": wanted.tcp_close_wait_s,
        # Never back to strict: it may be somebody else's choice.
        "nf_conntrack_tcp_be_liberal": float(wanted.tcp_be_liberal),
        "nf_conntrack_udp_timeout": wanted.udp_s,
        "nf_conntrack_udp_timeout_stream": wanted.udp_stream_s,
    }
    return {name: int(value) for name, value in seconds.items() if value > 0}


def apply_conntrack(
    wanted: ConntrackSysctls,
    *,
    sysctls: Path = SYSCTLS,
    hash_size: Path = HASH_SIZE,
    cpus: int | None = None,
    serve_anyway: bool = False,
) -> list[Kept]:
    """Set what is wanted in the network namespace of the calling thread; return what could not be.

    With ``serve_anyway`` a read-only /proc/sys is no error: in a container without the privilege
    ``--init-only`` set the values, and somebody changed one since. A proxy that ended for that
    would not come back by itself.

    Raises:
        SysctlRefused: as for kube-proxy this is the end: /proc/sys is read-only, or there is no
            connection tracking here. An operator who can live with that says so by zeros.
    """
    limit = conntrack_max(wanted, cpu_count() if cpus is None else cpus)
    others = time_outs(wanted)
    if (limit or others) and not (sysctls / _MAX).exists():
        ask_for_module()
    write = partial(_set, serve_anyway=serve_anyway)
    kept = _apply_limits(limit, sysctls / _MAX, hash_size, write) if limit else []
    for name, value in others.items():
        kept += write(sysctls / name, value)
    for item in kept:
        _log.warning("sysctl_kept", path=str(item.path), wanted=item.wanted, reason=item.reason)
    return kept


def _apply_limits(
    limit: int, path: Path, hash_size: Path, write: Callable[[Path, int], list[Kept]]
) -> list[Kept]:
    kept = []
    if _is_foreign(path):
        if _read(path) != limit:
            kept.append(Kept(path, limit, "belongs to the initial network namespace"))
    else:
        kept += write(path, limit)
    buckets = _read(hash_size)
    if buckets is None:
        raise SysctlRefused(str(hash_size), limit // 4, os.strerror(errno.ENOENT))
    if buckets < limit // 4:
        kept += _apply_hash_size(hash_size, limit // 4)
    return kept


def _apply_hash_size(path: Path, buckets: int) -> list[Kept]:
    try:
        _write(path, buckets)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return [Kept(path, buckets, "belongs to the initial network namespace")]
        if error.errno == errno.EROFS:
            return [Kept(path, buckets, "/sys is read-only")]
        raise SysctlRefused(str(path), buckets, os.strerror(error.errno or 0)) from error
    return []


def _is_foreign(path: Path) -> bool:
    """Whether nobody may write it here, root included: so it is shown to other namespaces."""
    try:
        return not path.stat().st_mode & 0o222
    except OSError:
        return False


def _set(path: Path, value: int, *, serve_anyway: bool) -> list[Kept]:
    if _read(path) == value:
        return []
    try:
        _write(path, value)
    except OSError as error:
        if serve_anyway and error.errno == errno.EROFS:
            return [Kept(path, value, "/proc/sys is read-only")]
        raise SysctlRefused(str(path), value, os.strerror(error.errno or 0)) from error
    return []


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _write(path: Path, value: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # never made: that hides why it is not there
    try:
        os.write(fd, f"{value}\n".encode())
    finally:
        os.close(fd)
    _log.info("sysctl_set", path=str(path), value=value)
