# SPDX-License-Identifier: Apache-2.0
"""Attaches without links and pins, for where no file system outlives the process.

The kernel keeps such attachments by itself: at cgroups beside those of others, at devices first in
the chain, XDP as the only one. A restart puts its programs in the places of those that it finds, in
one step. What is held by links of an earlier process ends after the new program works. Called by
``attach`` and ``devices``.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Sequence

from kubeproxy_bpf.dataplane.attachments import Attachment, at_tcx, at_xdp
from kubeproxy_bpf.dataplane.devicelink import TCX
from kubeproxy_bpf.dataplane.owned import Owned
from kubeproxy_bpf.dataplane.places import NO_LONGER_FIRST, Hold, Place
from kubeproxy_bpf.libbpf import (
    AttachFlag,
    AttachType,
    ObjectProgram,
    Program,
    device_chain,
    prog_attach,
    xdp_attach,
    xdp_programs,
)


def attach_to_cgroup(
    program: ObjectProgram,
    cgroup: Path,
    cgroup_fd: int,
    before: Sequence[Attachment],
    undo: ExitStack,
) -> None:
    """Attach a program, in place of one of those that stood there ``before`` if that has no link.

    The others of them are the caller's to end; therefore only a hook that had none is emptied again
    by ``undo``.
    """
    hook = AttachType(program.expected_attach_type)
    for old in before:
        if not old.link_id:
            with Program.from_id(old.program_id) as replaced:
                prog_attach(
                    program.fd, cgroup_fd, hook, AttachFlag.ALLOW_MULTI, replace_fd=replaced.fd
                )
            return
    prog_attach(program.fd, cgroup_fd, hook, AttachFlag.ALLOW_MULTI)
    if not before:
        undo.callback(Attachment(hook, program.info().id, 0, cgroup).end)


class UnlinkedTcxHold(Hold):
    """A program that stands before all others at its hook."""

    def __init__(self, place: Place, program_id: int) -> None:
        self._place = place
        self._attachment = Attachment(TCX[place.hook], program_id, 0, ifindex=place.ifindex)

    @classmethod
    def attach(cls, place: Place, program: ObjectProgram, owned: Owned) -> UnlinkedTcxHold:
        """Attach a program, or put it in place of that of an earlier process."""
        before = at_tcx(place.ifindex, place.hook, owned)
        first = device_chain(place.ifindex, TCX[place.hook])[:1]
        hold = cls(place, program.info().id)
        hook = TCX[place.hook]
        if before and first and before[0].program_id == first[0].prog_id and not before[0].link_id:
            with Program.from_id(before[0].program_id) as replaced:
                prog_attach(program.fd, place.ifindex, hook, replace_fd=replaced.fd)
        else:
            prog_attach(program.fd, place.ifindex, hook, AttachFlag.BEFORE)
        return hold

    def to_front(self, program: ObjectProgram, copy: ObjectProgram) -> None:
        """Move before all others; the copy does the work until the program has left its place."""
        ifindex, hook = self._place.ifindex, self._attachment.hook
        prog_attach(copy.fd, ifindex, hook, AttachFlag.BEFORE)
        self._attachment.end()
        prog_attach(program.fd, ifindex, hook, replace_fd=copy.fd)

    def fault(self) -> str | None:
        chain = device_chain(self._place.ifindex, self._attachment.hook)
        programs = [entry.prog_id for entry in chain if not entry.link_id]
        if self._attachment.program_id not in programs:
            return "detached"
        return None if chain[0].prog_id == self._attachment.program_id else NO_LONGER_FIRST

    def detach(self) -> None:
        self._attachment.end()

    def close(self) -> None:
        """Nothing is open."""


class UnlinkedXdpHold(Hold):
    """An XDP program; there is one per device, so nobody else's can stand beside it."""

    def __init__(self, place: Place, program_id: int, mode: int) -> None:
        self._attachment = Attachment(
            AttachType.XDP, program_id, 0, ifindex=place.ifindex, xdp_mode=mode
        )

    @classmethod
    def attach(
        cls, place: Place, program: ObjectProgram, owned: Owned, mode: int
    ) -> UnlinkedXdpHold:
        """Attach in this mode, or put the program in place of that of an earlier process.

        A link, or another mode, has to go first: meanwhile frames meet the programs of tcx.
        """
        replaced: Attachment | None = None
        for old in at_xdp(place.ifindex, owned):
            if old.xdp_mode == mode and not old.link_id:
                replaced = old
            else:
                old.end()
        if replaced is None:
            xdp_attach(program.fd, place.ifindex, mode)
        else:
            with Program.from_id(replaced.program_id) as old_program:
                xdp_attach(program.fd, place.ifindex, mode, replace_fd=old_program.fd)
        return cls(place, program.info().id, mode)

    def fault(self) -> str | None:
        ours = self._attachment.program_id in xdp_programs(self._attachment.ifindex)
        return None if ours else "detached"

    def detach(self) -> None:
        self._attachment.end()

    def close(self) -> None:
        """Nothing is open."""
