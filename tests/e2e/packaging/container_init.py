# SPDX-License-Identifier: Apache-2.0
"""First process of a container: builds what it sees, gives up what it may not do, becomes it.

Started by ``container.Running`` in fresh namespaces, with its specification as the only argument.
Stands in the node's network namespace and, as long as it is itself, in the node's control group,
which is the root of the control groups for everything in here.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

_CLONE_NEWCGROUP = 0x02000000
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable "
    "net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio "
    "sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time "
    "sys_tty_config mknod lease audit_write audit_control setfcap mac_override mac_admin syslog "
    "wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"
).split()
_libc = ctypes.CDLL(None, use_errno=True)


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), what)


def main() -> None:
    spec = json.loads(sys.argv[1])
    node = Path(spec["node"])
    show_node(spec, node)
    root = node / "root"
    root.mkdir(exist_ok=True)
    make_root(spec["rootfs"], root)
    for name in ("proc", "sys", "dev"):
        (root / name).mkdir(exist_ok=True)
    # Before the process leaves the node's group: what is mounted now has that as its root.
    (node / "sys/fs/cgroup" / spec["leaf"] / "cgroup.procs").write_text("0")
    if not spec["privileged"]:
        check(_libc.unshare(_CLONE_NEWCGROUP), "unshare")
    kernel_file_systems(root, spec["privileged"], node)
    for volume in spec["mounts"]:
        bind(volume["source"], inside(root, volume["target"]), volume["read_only"])
    if spec["read_only_root"]:
        mount("-o", "remount,ro,bind", root)
    seccomp = seccomp_filter(spec)
    os.chroot(root)
    os.chdir("/")
    if not spec["privileged"]:
        give_up(spec["capabilities"])
    if seccomp is not None:
        seccomp.load()
    os.execve(spec["argv"][0], spec["argv"], spec["env"])


def show_node(spec: dict[str, Any], node: Path) -> None:
    """What a node has where hostPath volumes look for it."""
    # A mount of its own, so that the root can be remounted read-only and bound.
    mount("--bind", node, node)
    mount("-t", "sysfs", "sysfs", node / "sys")
    mount("-t", "cgroup2", "cgroup2", node / "sys/fs/cgroup")
    mount("--bind", spec["bpffs"], node / "sys/fs/bpf")
    for name, path in spec["netns"].items():
        (node / "run/netns" / name).touch()
        mount("--bind", path, node / "run/netns" / name)


def make_root(rootfs: dict[str, Any], root: Path) -> None:
    """Layers below, what the container writes on top, gone with it."""
    scratch = root.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    mount("-t", "tmpfs", "tmpfs", scratch)
    upper, work = scratch / "upper", scratch / "work"
    for path in (upper, work):
        path.mkdir()
    layers = ":".join(rootfs["layers"])
    options = f"lowerdir={layers},upperdir={upper},workdir={work}"
    mount("-t", "overlay", "-o", options, "overlay", root)
    for name in ("run", "tmp"):
        (root / name).mkdir(exist_ok=True)
        mount("-t", "tmpfs", "tmpfs", root / name)
    for path, script in rootfs["programs"].items():
        (root / path.lstrip("/")).write_text(script)
        (root / path.lstrip("/")).chmod(0o755)
    for path in rootfs["shown"]:
        bind(path, inside(root, path), read_only=True)


def kernel_file_systems(root: Path, privileged: bool, node: Path) -> None:
    mount("-t", "proc", "proc", root / "proc")
    mount("-t", "sysfs", *([] if privileged else ["-o", "ro"]), "sysfs", root / "sys")
    if privileged:
        mount("--bind", node / "sys/fs/cgroup", root / "sys/fs/cgroup")
    else:
        mount("-t", "cgroup2", "-o", "ro", "cgroup2", root / "sys/fs/cgroup")
        mount("--bind", root / "proc/sys", root / "proc/sys")
        mount("-o", "remount,ro,bind", root / "proc/sys")
    mount("-t", "tmpfs", "tmpfs", root / "dev")
    for name in ("null", "zero", "random", "urandom"):
        bind(f"/dev/{name}", root / "dev" / name, read_only=False)


def inside(root: Path, path: str) -> Path:
    """A path of the container; its symbolic links lead to places in there, never out of it."""
    found = root
    for part in path.strip("/").split("/"):
        found = found / part
        while found.is_symlink():
            link = os.readlink(found)
            found = root / link.lstrip("/") if link.startswith("/") else found.parent / link
    return found


def bind(source: str, target: Path, read_only: bool) -> None:
    if os.path.isdir(source):
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount("--rbind", source, target)
    if read_only:
        mount("-o", "remount,ro,bind", target)


def seccomp_filter(spec: dict[str, Any]) -> Any:
    """What the container's profile is made to, before its root hides our files; or None."""
    if not spec["seccomp"]:
        return None
    path = Path(__file__).with_name("runtime_default.py")
    profiles: dict[str, Any] = runpy.run_path(str(path))
    refused = [profiles["Refusal"](*each) for each in spec["refused_calls"]]
    return profiles["runtime_default"](spec["capabilities"], refused)


def give_up(kept: list[str]) -> None:
    """A root's program has what its bounding set has."""
    unknown = set(kept) - set(_CAPABILITIES)
    if unknown:
        raise SystemExit(f"no such capability: {unknown}")
    for number, name in enumerate(_CAPABILITIES):
        if name not in kept:
            check(_libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), name)
    check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


if __name__ == "__main__":
    assert shutil.which("mount")
    main()
