# SPDX-License-Identifier: Apache-2.0
"""Where programs of one instance are attached, by link or without, and how each is ended.

Asks the kernel alone, so it also sees what hangs on pins of a file system that this process cannot
see. Filters of clsact are the business of ``clsact``. Used by ``attach``, ``unlinked`` and
``devices`` to end what came before them, and by ``inventory``.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Iterable, Iterator, NamedTuple

from kubeproxy_bpf.dataplane.devicelink import TCX, XDP_GENERIC, XDP_NATIVE
from kubeproxy_bpf.dataplane.owned import Owned
from kubeproxy_bpf.dataplane.places import Hook
from kubeproxy_bpf.libbpf import (
    AttachType,
    LibbpfError,
    Link,
    LinkInfo,
    LinkType,
    Program,
    device_chain,
    link_ids,
    prog_detach,
    prog_query,
    xdp_detach,
    xdp_programs,
)

_GONE = (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOLINK)


class Attachment(NamedTuple):
    """A program of ours at a hook."""

    hook: AttachType
    program_id: int
    link_id: int
    """0: it is attached without a link."""
    cgroup: Path | None = None
    ifindex: int = 0
    xdp_mode: int = 0

    def __str__(self) -> str:
        where = self.cgroup or (f"device {self.ifindex}" if self.ifindex else "some cgroup")
        by = f"link {self.link_id}" if self.link_id else "no link"
        return f"program {self.program_id} at {self.hook.name.lower()} of {where} by {by}"

    def end(self) -> None:
        """Detach it; that it is gone already is fine."""
        try:
            if self.link_id:
                with Link.from_id(self.link_id) as link:
                    link.detach()
            else:
                self._detach_program()
        except OSError as error:
            if error.errno not in _GONE:
                raise

    def _detach_program(self) -> None:
        with Program.from_id(self.program_id) as program:
            if self.hook == AttachType.XDP:
                xdp_detach(program.fd, self.ifindex, self.xdp_mode)
            elif self.cgroup is None:
                prog_detach(program.fd, self.ifindex, self.hook)
            else:
                cgroup_fd = os.open(self.cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    prog_detach(program.fd, cgroup_fd, self.hook)
                finally:
                    os.close(cgroup_fd)


class LinkTable:
    """The links that hold programs of the instance, as they were when this was made."""

    def __init__(self, owned: Owned) -> None:
        found = [info for info in _links() if info.prog_id in owned]
        self.all = [info for info in found if info.cgroup_id or info.ifindex]
        self.dead = [info for info in found if info not in self.all]
        """Detached, or without their cgroup or device; somebody's pins keep them."""

    def at_cgroup(self, inode: int, hook: AttachType) -> list[LinkInfo]:
        """Those at one hook of a cgroup."""
        return [
            info
            for info in self.all
            if info.type == LinkType.CGROUP and (info.cgroup_id, info.attach_type) == (inode, hook)
        ]

    def of_xdp(self, ifindex: int, program_id: int) -> int:
        """The id of the link that holds this program at a device; 0 if none does."""
        for info in self.all:
            if info.type == LinkType.XDP and (info.ifindex, info.prog_id) == (ifindex, program_id):
                return info.id
        return 0


def at_cgroup(
    cgroup: Path, cgroup_fd: int, hook: AttachType, owned: Owned, links: LinkTable
) -> list[Attachment]:
    """What of ours stands at one hook of a cgroup itself."""
    programs = [number for number in prog_query(cgroup_fd, hook) if number in owned]
    found = []
    for info in links.at_cgroup(os.fstat(cgroup_fd).st_ino, hook):
        if info.prog_id in programs:
            programs.remove(info.prog_id)
            found.append(Attachment(hook, info.prog_id, info.id, cgroup))
    return found + [Attachment(hook, number, 0, cgroup) for number in programs]


def at_tcx(ifindex: int, hook: Hook, owned: Owned) -> list[Attachment]:
    """What of ours stands at one direction of a device, in order."""
    return [
        Attachment(TCX[hook], entry.prog_id, entry.link_id, ifindex=ifindex)
        for entry in device_chain(ifindex, TCX[hook])
        if entry.prog_id in owned
    ]


def at_xdp(ifindex: int, owned: Owned) -> list[Attachment]:
    """What of ours a device has of XDP."""
    modes = zip((XDP_NATIVE, XDP_GENERIC), xdp_programs(ifindex))
    ours = [(mode, number) for mode, number in modes if number and number in owned]
    if not ours:
        return []
    links = LinkTable(owned)
    return [
        Attachment(
            AttachType.XDP, number, links.of_xdp(ifindex, number), ifindex=ifindex, xdp_mode=mode
        )
        for mode, number in ours
    ]


def at_device(ifindex: int, owned: Owned, hooks: Iterable[Hook]) -> list[Attachment]:
    """What of ours stands at these hooks of a device; nothing if it is gone."""
    found: list[Attachment] = []
    try:
        for hook in hooks:
            found += at_xdp(ifindex, owned) if hook is Hook.XDP else at_tcx(ifindex, hook, owned)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return []
    return found


def by_link(owned: Owned) -> list[Attachment]:
    """What of ours is held by links, wherever it is attached."""
    found = []
    for info in LinkTable(owned).all:
        if info.type in (LinkType.CGROUP, LinkType.TCX, LinkType.XDP):
            hook = AttachType(info.attach_type)
            found.append(Attachment(hook, info.prog_id, info.id, ifindex=info.ifindex))
    return found


def _links() -> Iterator[LinkInfo]:
    for number in link_ids():
        try:
            with Link.from_id(number) as link:
                yield link.info()
        except LibbpfError as error:
            # Gone meanwhile, or another process is about to make it and it is not ready yet.
            if error.errno not in (errno.ENOENT, errno.EAGAIN):
                raise
