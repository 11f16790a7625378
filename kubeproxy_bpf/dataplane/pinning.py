# SPDX-License-Identifier: Apache-2.0
"""Decides whether maps and links are pinned, and keeps the directory of pins clean.

Pins are worth something where the file system outlives the process. The rule of ``auto``:

1. A BPF file system at the pin path, or above it, was there before this process: pin.
2. None is there, but this process stands on the host itself: mount one, and pin. That is so in the
   first pid namespace of the kernel, and in the mount namespace of its process 1: nothing else
   outlives a container, whose process 1 may well be this process.
3. Otherwise, as in kubeadm's DaemonSet: what would be mounted ends with the container. Do not pin;
   the kernel keeps the attachments, and they lead to the maps (``unlinked``, ``owned``).

A BPF file system lets everybody make directories in its root. Who owns ours could take our pins
away or put others in their place: it has to be this user's alone (``keep_private``).

Called by ``instance``.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Collection

import structlog

from kubeproxy_bpf.dataplane.mounts import BPFFS, ensure_bpffs, has_bpffs
from kubeproxy_bpf.errors import DataplaneError
from kubeproxy_bpf.libbpf import LibbpfError, Link

_log = structlog.get_logger(__name__)

_MAPS_DIR = re.compile("[0-9a-f]{12}")
"""Named by the digest of layouts and sizes (``loader``)."""
_FIRST_PID_NAMESPACE = "pid:[4026531836]"
"""The kernel gives this number to it alone (PROC_PID_INIT_INO)."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class PinsUnsafe(DataplaneError):
    """The directory of pins is somebody else's, who could exchange what is in it."""

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(directory, reason)
        self.directory = directory
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"nothing is pinned at {self.directory}: {self.reason}; "
            "remove it, or give another --bpf-pin-path"
        )


def pin_directory(wish: str, directory: Path) -> Path | None:
    """Where to pin; None: nowhere. ``wish`` is auto, on or off.

    Mounts a BPF file system if pins are to be made and there is none.
    """
    pinned = wish == "on" or (wish == "auto" and (has_bpffs(directory) or on_host()))
    _log.info("pins_chosen", pinned=pinned, wish=wish, path=str(directory))
    if not pinned:
        return None
    ensure_bpffs(directory)
    if directory.resolve() != BPFFS:  # that one is everybody's, and not ours to close
        keep_private(directory)
    return directory


def keep_private(directory: Path) -> None:
    """Close the directory to everybody else.

    Raises:
        PinsUnsafe: it is not ours to close.
    """
    try:
        # Not by way of a link, which leads today here and tomorrow elsewhere.
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise PinsUnsafe(directory, "it is a link, or no directory") from error
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid():
            raise PinsUnsafe(directory, f"it belongs to user {found.st_uid}")
        if stat.S_IMODE(found.st_mode) & _OTHERS:
            _log.warning("pins_closed", path=str(directory), mode=oct(stat.S_IMODE(found.st_mode)))
            os.fchmod(fd, stat.S_IRWXU)
        for name in os.listdir(fd):
            owner = os.stat(name, dir_fd=fd, follow_symlinks=False).st_uid
            if owner != os.geteuid():
                raise PinsUnsafe(directory, f"{name} in it belongs to user {owner}")
    finally:
        os.close(fd)


def links_in(directory: Path) -> Path:
    """The links among the pins."""
    return directory / "links"


def any_attached(links: Path) -> bool:
    """Whether one of these links is attached; so it counts what cannot be looked at."""
    try:
        return links.is_dir() and any(not _is_dead(pin) for pin in links.iterdir())
    except LibbpfError:
        return True


def on_host(proc: Path = Path("/proc")) -> bool:
    """Whether what this process mounts stays when it ends: see the module's rule 2."""
    try:
        if os.readlink(proc / "self/ns/pid") != _FIRST_PID_NAMESPACE:
            return False
        return os.readlink(proc / "self/ns/mnt") == os.readlink(proc / "1/ns/mnt")
    except OSError:  # process 1 is not ours to look at
        return False


def drop_pins(directory: Path) -> None:
    """Unpin the maps, and the links that hold nothing any more; others still serve."""
    if not has_bpffs(directory) or not directory.is_dir():
        return
    links = links_in(directory)
    for pin in links.iterdir() if links.is_dir() else ():
        if _is_dead(pin):
            pin.unlink()
        else:
            _log.warning("old_link_kept", link=str(pin), error="it is attached")
    drop_maps(directory)
    for emptied in (links, directory):
        try:
            emptied.rmdir()
        except OSError:  # in use, absent, or mounted
            continue


def _is_dead(pin: Path) -> bool:
    with Link.open_pinned(pin) as link:
        info = link.info()
    return not info.cgroup_id and not info.ifindex


def drop_maps(directory: Path, in_use: Collection[Path | None] = ()) -> None:
    """Unpin maps of another layout or size: they end with the programs that used them.

    Only what looks like ours: the directory may be shared with others.
    """
    for path in directory.iterdir():
        if path in in_use or not _MAPS_DIR.fullmatch(path.name):
            continue
        for pin in path.glob("kpb_*"):
            pin.unlink()
        try:
            path.rmdir()
        except OSError as error:
            _log.warning("old_maps_kept", maps=str(path), error=str(error))
        else:
            _log.info("old_maps_dropped", maps=str(path))
