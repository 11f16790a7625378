# SPDX-License-Identifier: Apache-2.0
"""Where the kernel's file systems are mounted: cgroup2 for attaching, bpf for pinning.

Reads /proc/self/mountinfo; mounts a BPF file system where there is none. Called by the composition
root and by ``attach``.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import structlog

from kubeproxy_bpf.errors import UnsupportedKernel

_log = structlog.get_logger(__name__)

BPFFS = Path("/sys/fs/bpf")


class Mount(NamedTuple):
    point: Path
    root: str
    """What of the file system is seen here; "/" is all of it."""
    type: str


def read_mounts(mountinfo: Path = Path("/proc/self/mountinfo")) -> list[Mount]:
    """Return all mounts in the order in which they were made."""
    mounts = []
    # Paths may hold any bytes, and what Python takes for the end of a line.
    for line in mountinfo.read_text(errors="surrogateescape").rstrip("\n").split("\n"):
        fields = line.split(" ")
        kind = fields[fields.index("-") + 1]
        mounts.append(Mount(Path(_unescape(fields[4])), _unescape(fields[3]), kind))
    return mounts


def find_cgroup_root(mountinfo: Path = Path("/proc/self/mountinfo")) -> Path:
    """Return where cgroup v2 is mounted, alone or beside version 1."""
    candidates = [mount for mount in read_mounts(mountinfo) if mount.type == "cgroup2"]
    if not candidates:
        needs = "no cgroup2 file system is mounted; mount one, or give --bpf-cgroup-root"
        raise UnsupportedKernel("cgroup v2", needs)
    # A mount of a part (a container's own) is worth less than one of the whole.
    return min(candidates, key=lambda mount: mount.root != "/").point


def is_real_root(cgroup: Path) -> bool:
    """Whether this is the root of all groups, and not of a container's view: it has no events."""
    return not (cgroup / "cgroup.events").exists()


def cgroup_path(
    cgroup: Path, mountinfo: Path = Path("/proc/self/mountinfo")
) -> PurePosixPath | None:
    """The path of a cgroup within its tree, as /proc/PID/cgroup shows it; None if it is none."""
    cgroup = cgroup.resolve()
    mounts = [m for m in read_mounts(mountinfo) if m.type == "cgroup2"]
    for mount in sorted(mounts, key=lambda mount: len(mount.point.parts), reverse=True):
        if cgroup.is_relative_to(mount.point):
            return PurePosixPath(mount.root) / cgroup.relative_to(mount.point)
    return None


def has_bpffs(path: Path) -> bool:
    """Whether a path lies on a BPF file system, or would."""
    return _type_at(path) == "bpf"


def ensure_bpffs(path: Path) -> None:
    """Make a directory for pins, with a BPF file system under it."""
    if not has_bpffs(path):
        target = BPFFS if path.is_relative_to(BPFFS) else path
        if target == path:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _mount_bpffs(target)
        # Where this is a container's own file system, a restart finds no pins on it.
        _log.warning("bpffs_mounted", path=str(target), pins="end with this mount namespace")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _type_at(path: Path) -> str:
    """The type of the file system on which a path lies, or would lie."""
    path = path.resolve()
    best: Mount | None = None
    for mount in read_mounts():
        if path.is_relative_to(mount.point) and (
            best is None or len(mount.point.parts) >= len(best.point.parts)
        ):
            best = mount
    return best.type if best else ""


def _mount_bpffs(target: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(target), b"bpf", 0, b"mode=0700") < 0:
        reason = os.strerror(ctypes.get_errno())
        raise UnsupportedKernel("BPF file system", f"cannot mount one at {target}: {reason}")


def _unescape(field: str) -> str:
    """Spaces and the like stand as octal numbers in mountinfo."""
    for code in ("040", "011", "012", "134"):
        field = field.replace("\\" + code, chr(int(code, 8)))
    return field
