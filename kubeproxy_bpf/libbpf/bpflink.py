# SPDX-License-Identifier: Apache-2.0
"""Links: what keeps a program attached, by file descriptor; and who is attached where.

Links are created by the raw system call, since libbpf 1.1 knows neither tcx nor netkit. A link
that is not pinned detaches when its last descriptor is closed. Used by ``dataplane.attach``.
"""

from __future__ import annotations

import errno
import os
from ctypes import addressof, byref, c_uint32, sizeof
from typing import NamedTuple, Self

from . import _native
from ._structs import LinkCreateAttr, LinkInfoStruct, LinkUpdateOpts, QueryAttr
from .abc import HasFd
from .enums import AttachFlag, AttachType, LinkType
from .errors import LibbpfError, check
from .kernel import bpf_call
from .ownedfd import OwnedFd, fill_info, open_pin, pin

_PROG_QUERY = 16
_LINK_CREATE = 28
_QUERY_EFFECTIVE = 1
_READ_BYTES = 1 << 16


class LinkInfo(NamedTuple):
    """What the kernel knows of a link; what does not apply to its type is 0."""

    id: int
    type: int  # LinkType
    prog_id: int
    attach_type: int  # AttachType
    cgroup_id: int  # 0 also when the cgroup is gone, or the link was detached
    ifindex: int  # 0 also when the device is gone


class Link(OwnedFd):
    """An attachment, open in this process."""

    __slots__ = ()

    @classmethod
    def create(
        cls,
        prog_fd: int,
        target_fd: int,
        attach_type: int,
        flags: int = 0,
        *,
        relative_fd: int = 0,
    ) -> Self:
        """Attach a program to a cgroup (descriptor) or a device (interface index).

        Devices are looked up in the network namespace of the calling thread. For tcx and netkit,
        the flags BEFORE and AFTER choose the place in the chain, next to ``relative_fd`` or at
        the end of it.
        """
        attr = LinkCreateAttr(
            prog_fd=prog_fd,
            target=target_fd,
            attach_type=attach_type,
            flags=flags,
            relative_fd=relative_fd,
        )
        return cls(bpf_call(_LINK_CREATE, attr, "bpf_link_create", _name(attach_type)))

    @classmethod
    def open_pinned(cls, path: str | os.PathLike[str]) -> Self:
        return cls(open_pin(path))

    @classmethod
    def from_id(cls, id: int) -> Self:
        return cls(check(_native.bpf_link_get_fd_by_id(id), "bpf_link_get_fd_by_id", str(id)))

    def info(self) -> LinkInfo:
        """Ask the kernel what is attached where."""
        raw = LinkInfoStruct()
        fill_info(self.fd, raw)
        attach_type = cgroup_id = ifindex = 0
        if raw.type == LinkType.CGROUP:
            cgroup_id, attach_type = raw.detail.cgroup.cgroup_id, raw.detail.cgroup.attach_type
        elif raw.type in (LinkType.TCX, LinkType.NETKIT):
            ifindex, attach_type = raw.detail.device.ifindex, raw.detail.device.attach_type
        elif raw.type == LinkType.XDP:
            ifindex, attach_type = raw.detail.device.ifindex, AttachType.XDP
        elif raw.type == LinkType.ITER:
            attach_type = AttachType.TRACE_ITER
        return LinkInfo(raw.id, raw.type, raw.prog_id, attach_type, cgroup_id, ifindex)

    def update(self, program: HasFd, old: HasFd | None = None) -> None:
        """Swap the program atomically; with ``old``, only if that one is still attached."""
        opts = LinkUpdateOpts(sz=sizeof(LinkUpdateOpts))
        if old is not None:
            opts.flags = AttachFlag.REPLACE
            opts.old_prog_fd = old.fd
        check(_native.bpf_link_update(self.fd, program.fd, byref(opts)), "bpf_link_update")

    def detach(self) -> None:
        """Detach now, also when the link is pinned or open elsewhere."""
        check(_native.bpf_link_detach(self.fd), "bpf_link_detach")

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Keep the link, and with it the attachment, at a path on a BPF file system."""
        pin(self.fd, path)


class IterLink(Link):
    """A link to an iterator program; each read runs it once over all objects."""

    __slots__ = ()

    def read(self) -> bytes:
        """Run the iterator in the caller's network namespace and return all that it wrote."""
        chunks: list[bytes] = []
        with OwnedFd(check(_native.bpf_iter_create(self.fd), "bpf_iter_create")) as seq:
            while True:
                try:
                    chunk = os.read(seq.fd, _READ_BYTES)
                except BlockingIOError:
                    continue  # the kernel pauses after very many objects that wrote nothing
                except OSError as error:
                    raise LibbpfError(error.errno or errno.EIO, "read", "iterator") from error
                if not chunk:
                    return b"".join(chunks)
                chunks.append(chunk)


def prog_query(target_fd: int, attach_type: int, effective: bool = False) -> list[int]:
    """Return the ids of the programs attached at a cgroup or device, in order of execution.

    ``effective`` includes what is inherited from the ancestors of a cgroup.
    """
    flags = _QUERY_EFFECTIVE if effective else 0
    room = 64
    while True:
        ids, count, attach_flags = (c_uint32 * room)(), c_uint32(room), c_uint32()
        result = _native.bpf_prog_query(
            target_fd, attach_type, flags, byref(attach_flags), ids, byref(count)
        )
        if result == -errno.ENOSPC:
            room *= 2
            continue
        check(result, "bpf_prog_query", _name(attach_type))
        return list(ids[: count.value])


class ChainEntry(NamedTuple):
    """One program of those that run at a device, and the link that holds it; 0 if none does."""

    prog_id: int
    link_id: int


def device_chain(ifindex: int, attach_type: int) -> list[ChainEntry]:
    """Return what runs at a tcx or netkit hook of a device, in order of execution.

    Devices are looked up in the network namespace of the calling thread.
    """
    room = 64
    while True:
        programs, links = (c_uint32 * room)(), (c_uint32 * room)()
        attr = QueryAttr(
            target=ifindex,
            attach_type=attach_type,
            prog_ids=addressof(programs),
            count=room,
            link_ids=addressof(links),
        )
        try:
            bpf_call(_PROG_QUERY, attr, "bpf_prog_query", _name(attach_type))
        except LibbpfError as error:
            if error.errno != errno.ENOSPC:
                raise
            room *= 2
            continue
        return [ChainEntry(programs[i], links[i]) for i in range(attr.count)]


def _name(attach_type: int) -> str:
    try:
        return AttachType(attach_type).name.lower()
    except ValueError:
        return f"attach type {attach_type}"
