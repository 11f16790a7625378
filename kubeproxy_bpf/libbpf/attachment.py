# SPDX-License-Identifier: Apache-2.0
"""Attaching without a link: what stays until it is detached, whoever has made it.

The kernel holds such a program as long as the cgroup or the device exists; no descriptor and no pin
is needed. Used by ``dataplane.unlinked`` and ``dataplane.attachments``.
"""

from __future__ import annotations

from ctypes import byref, sizeof
from typing import NamedTuple

from . import _native
from ._structs import AttachAttr, XdpAttachOpts, XdpQueryOpts
from .enums import AttachFlag, AttachType
from .errors import check
from .kernel import bpf_call

_PROG_ATTACH = 8
_PROG_DETACH = 9
_XDP_IF_NOEXIST = 1 << 0
_XDP_REPLACE = 1 << 4
_NO_PROGRAM = -1


def prog_attach(
    prog_fd: int, target: int, attach_type: AttachType, flags: int = 0, *, replace_fd: int = 0
) -> None:
    """Attach to a cgroup (descriptor) or, for tcx, a device (interface index).

    With ``replace_fd`` the program takes the place of that one, in one step.
    """
    attr = AttachAttr(
        target=target,
        prog_fd=prog_fd,
        attach_type=attach_type,
        flags=flags | (AttachFlag.REPLACE if replace_fd else 0),
        replace_fd=replace_fd,
    )
    bpf_call(_PROG_ATTACH, attr, "bpf_prog_attach", attach_type.name.lower())


def prog_detach(prog_fd: int, target: int, attach_type: AttachType) -> None:
    """Detach a program that was attached without a link."""
    attr = AttachAttr(target=target, prog_fd=prog_fd, attach_type=attach_type)
    bpf_call(_PROG_DETACH, attr, "bpf_prog_detach", attach_type.name.lower())


class XdpPrograms(NamedTuple):
    """The ids of the programs of a device, by link or without; 0 if there is none."""

    native: int
    generic: int


def xdp_programs(ifindex: int) -> XdpPrograms:
    """Ask which XDP programs a device has."""
    opts = XdpQueryOpts(sz=sizeof(XdpQueryOpts))
    check(_native.bpf_xdp_query(ifindex, 0, byref(opts)), "bpf_xdp_query", str(ifindex))
    return XdpPrograms(opts.drv_prog_id, opts.skb_prog_id)


def xdp_attach(prog_fd: int, ifindex: int, mode: int, *, replace_fd: int = 0) -> None:
    """Attach an XDP program where there is none, or in place of exactly this one."""
    _xdp(ifindex, prog_fd, mode, replace_fd)


def xdp_detach(prog_fd: int, ifindex: int, mode: int) -> None:
    """Detach exactly this XDP program."""
    _xdp(ifindex, _NO_PROGRAM, mode, prog_fd)


def _xdp(ifindex: int, prog_fd: int, mode: int, replaced_fd: int) -> None:
    opts = XdpAttachOpts(sz=sizeof(XdpAttachOpts), old_prog_fd=replaced_fd)
    flags = mode | (_XDP_REPLACE if replaced_fd else _XDP_IF_NOEXIST)
    result = _native.bpf_xdp_attach(ifindex, prog_fd, flags, byref(opts))
    check(result, "bpf_xdp_attach", str(ifindex))
