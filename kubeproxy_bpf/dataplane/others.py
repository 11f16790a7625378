# SPDX-License-Identifier: Apache-2.0
"""Finds programs of other instances where those of one instance belong; changes nothing.

An instance is a name (its pin path) and a network namespace. A proxy that is started with another
of either knows nothing of the programs that it left under the first: they stay, and translate by
maps that nobody writes any more. Instances that share a kernel in control groups and namespaces of
their own are not met here. Filters of clsact are not looked at: an instance with such filters has
hooks at a control group, too. Used by ``instance`` after attaching, and by ``cleanup``.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from socket import if_nameindex
from typing import Iterable

import structlog

from kubeproxy_bpf.dataplane.attachments import at_device
from kubeproxy_bpf.dataplane.devicelink import has_tcx
from kubeproxy_bpf.dataplane.owned import Owned, Owner
from kubeproxy_bpf.dataplane.places import Hook
from kubeproxy_bpf.libbpf import AttachType, LibbpfError, ProgramInfo, prog_query

_log = structlog.get_logger(__name__)

_CGROUP_HOOKS = tuple(hook for hook in AttachType if hook.name.startswith("CGROUP_"))
_NO_HOOK = (errno.EINVAL, errno.ENODEV)
"""The kernel does not know the hook, or the control group is gone."""


class Others(Owned):
    """Recognises the programs that name another owner than this one."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        self._owners: dict[int, Owner] = {}

    def at_cgroup(self, cgroup: Path) -> dict[Owner, list[int]]:
        """The ids of those at the hooks of a control group itself, by their owners."""
        try:
            cgroup_fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return {}
        found: set[int] = set()
        try:
            for hook in _CGROUP_HOOKS:
                found.update(_at_hook(cgroup_fd, hook))
        finally:
            os.close(cgroup_fd)
        return self._by_owner(found)

    def at_devices(self) -> dict[Owner, list[int]]:
        """The ids of those at devices of the calling thread's network namespace."""
        hooks = tuple(Hook) if has_tcx() else (Hook.XDP,)
        devices = [ifindex for ifindex, _ in if_nameindex()]
        found = (each for ifindex in devices for each in at_device(ifindex, self, hooks))
        return self._by_owner({each.program_id for each in found})

    def _by_owner(self, programs: Iterable[int]) -> dict[Owner, list[int]]:
        found: dict[Owner, list[int]] = {}
        for number in sorted(programs):
            if number in self:
                found.setdefault(self._owners[number], []).append(number)
        return found

    def _is_ours(self, info: ProgramInfo) -> bool:
        named = self._named_by(info)
        if named is None or named == self._owner:
            return False
        self._owners[info.id] = named
        return True

    def _named_by(self, info: ProgramInfo) -> Owner | None:
        """Who a program says it belongs to; None if it says nothing."""
        for map_id in info.map_ids:
            content = self._section(map_id)
            places = self._places_in(info.btf_id) if content is not None else ()
            if content is not None and places:
                return Owner(*(int.from_bytes(content[at], sys.byteorder) for at in places))
        return None


def _at_hook(cgroup_fd: int, hook: AttachType) -> list[int]:
    try:
        return list(prog_query(cgroup_fd, hook))
    except LibbpfError as error:
        if error.errno not in _NO_HOOK:
            raise
        return []


def report_others(ours: Owner, cgroup: Path) -> None:
    """Say which programs at our hooks belong to another instance; ending them is not ours to do."""
    try:
        found = Others(ours).at_cgroup(cgroup)
    except LibbpfError as error:
        _log.warning("other_instances_unknown", error=str(error))
        return
    for owner, programs in found.items():
        _log.error(
            "other_instance_attached",
            programs=programs,
            instance=f"{owner.instance:016x}",
            netns_cookie=owner.host_netns,
            cgroup=str(cgroup),
            action="unless its proxy runs, end it: --cleanup with the --bpf-pin-path and in the "
            "network namespace that it was started with",
        )
