# SPDX-License-Identifier: Apache-2.0
"""All that one instance has in the kernel: found, listed and ended, whichever way it is kept.

Knows nothing of pins (``pinning.drop_pins`` removes what is left of them) and of what is no BPF.
``end_all`` is what a cleanup does; ``end_strays`` is for a start that finds hooks at a cgroup where
they are not wanted any more. Both need CAP_SYS_ADMIN. Device attachments are looked for in the
network namespace of the calling thread.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from socket import if_nameindex
from typing import Collection, Iterable, Iterator

import structlog

from kubeproxy_bpf.dataplane.attachments import (
    Attachment,
    LinkTable,
    at_cgroup,
    at_device,
    by_link,
)
from kubeproxy_bpf.dataplane.clsact import ClsactFilters
from kubeproxy_bpf.dataplane.devicelink import has_tcx
from kubeproxy_bpf.dataplane.mounts import find_cgroup_root
from kubeproxy_bpf.dataplane.owned import Owned
from kubeproxy_bpf.dataplane.places import Hook
from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.libbpf import AttachType, LibbpfError, ProgramInfo, ProgramType

_log = structlog.get_logger(__name__)

_CGROUP_HOOKS = tuple(hook for hook in AttachType if hook.name.startswith("CGROUP_"))
_CGROUP_PROGRAMS = (ProgramType.CGROUP_SOCK, ProgramType.CGROUP_SOCK_ADDR)
_CONNECTING = (AttachType.CGROUP_INET4_CONNECT, AttachType.CGROUP_INET6_CONNECT)


def attachments(owned: Owned, cgroups: Iterable[Path]) -> list[Attachment]:
    """What is attached: by links anywhere, without links at these cgroups and at all devices."""
    found = by_link(owned)
    table = LinkTable(owned)
    for cgroup in cgroups:
        found += [each for each in _at_hooks(cgroup, owned, table) if not each.link_id]
    hooks = tuple(Hook) if has_tcx() else (Hook.XDP,)
    for ifindex, _ in if_nameindex():
        found += [each for each in at_device(ifindex, owned, hooks) if not each.link_id]
    return found


def end_all(owned: Owned) -> list[Attachment]:
    """Detach everything of the instance; return what refused. ``left`` tells whether it helped."""
    found = attachments(owned, all_cgroups())
    # What makes sockets depend on us ends first, what cares for those that do so last.
    found.sort(key=lambda each: each.hook not in _CONNECTING)
    refused = _end(found)
    if any(program.type == ProgramType.SCHED_CLS for program in left(owned)):
        ClsactFilters().remove_all()
    return refused


def left(owned: Owned) -> list[ProgramInfo]:
    """The programs of the instance that may still run, or that a process holds.

    Without those that are attached nowhere and hang on links that are pinned, maybe where this
    process cannot see it: these end with their file system.
    """
    links = LinkTable(owned)
    dead = {info.prog_id for info in links.dead} - {info.prog_id for info in links.all}
    return [program for program in owned.programs() if program.id not in dead]


def maps_left(owned: Owned) -> set[int]:
    """The ids of all maps that programs of the instance use."""
    return {number for program in owned.programs() for number in program.map_ids}


def end_strays(owned: Owned, current: Collection[int], *, packets: bool) -> None:
    """End hooks of earlier processes at cgroups, when the ``current`` programs are at work.

    ``packets`` says that programs at devices are strays too.
    """

    def strays() -> list[ProgramInfo]:
        kinds = (*_CGROUP_PROGRAMS, ProgramType.SCHED_CLS, ProgramType.XDP)
        wanted = kinds if packets else _CGROUP_PROGRAMS
        return [p for p in left(owned) if p.type in wanted and p.id not in current]

    numbers = {program.id for program in strays()}
    if not numbers:
        return
    _end([each for each in by_link(owned) if each.program_id in numbers])
    if strays():
        _end([each for each in attachments(owned, all_cgroups()) if each.program_id in numbers])
    for program in strays():
        _log.warning("old_program_kept", program=program.id, name=program.name)


def all_cgroups() -> Iterator[Path]:
    """Every cgroup that this process can see; none where there is no cgroup v2."""
    try:
        root = find_cgroup_root()
    except UnsupportedKernel:
        return
    for path, _, _ in os.walk(root):
        yield Path(path)


def _at_hooks(cgroup: Path, owned: Owned, table: LinkTable) -> list[Attachment]:
    try:
        cgroup_fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    found: list[Attachment] = []
    try:
        for hook in _CGROUP_HOOKS:
            try:
                found += at_cgroup(cgroup, cgroup_fd, hook, owned, table)
            except LibbpfError as error:
                if error.errno not in (errno.EINVAL, errno.ENODEV):  # unknown hook, cgroup gone
                    raise
    finally:
        os.close(cgroup_fd)
    return found


def _end(found: Iterable[Attachment]) -> list[Attachment]:
    refused = []
    for each in found:
        try:
            each.end()
        except OSError as error:
            _log.warning("old_program_kept", attachment=str(each), error=str(error))
            refused.append(each)
        else:
            _log.info("old_program_detached", attachment=str(each))
    return refused
