# SPDX-License-Identifier: Apache-2.0
"""A loaded program by file descriptor: what it is, how often it ran, and running it on trial.

``bpfobject.ObjectProgram`` is the same seen from the object that it came from.
"""

from __future__ import annotations

import os
from ctypes import addressof, c_uint32
from typing import NamedTuple, Self

from . import _native, testrun
from ._structs import ProgramInfoStruct
from .bpflink import IterLink
from .enums import AttachType
from .errors import check
from .ownedfd import OwnedFd, fill_info, open_pin, pin


class ProgramInfo(NamedTuple):
    """What the kernel knows of a program."""

    id: int
    type: int  # ProgramType
    name: str  # at most 15 characters
    tag: str  # digest of the instructions
    map_ids: tuple[int, ...]
    run_time_ns: int  # counted while statistics are enabled
    run_cnt: int
    verified_insns: int
    xlated_bytes: int
    jited_bytes: int
    btf_id: int
    load_time_ns: int  # of the clock CLOCK_BOOTTIME


class ProgramCalls:
    """What can be done with any loaded program; the heir says where the descriptor comes from."""

    __slots__ = ()

    @property
    def fd(self) -> int:
        raise NotImplementedError

    def info(self) -> ProgramInfo:
        """Ask the kernel about the program."""
        return program_info(self.fd)

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Keep the program at a path on a BPF file system."""
        pin(self.fd, path)

    def test_run(self, data: bytes = b"", repeat: int = 1, ctx: bytes = b"") -> testrun.RunResult:
        """Run the program on a packet, a context, or both, without attaching it."""
        return testrun.run(self.fd, data, repeat, ctx)

    def send_frames(self, frame: bytes, count: int, ifindex: int, batch: int = 0) -> int:
        """Run an XDP program on live frames, as if a device had received them; ns per frame."""
        return testrun.send(self.fd, frame, count, ifindex, batch)

    def attach_iter(self) -> IterLink:
        """Make an iterator program readable."""
        return IterLink.create(self.fd, 0, AttachType.TRACE_ITER)

    def run_iter(self) -> bytes:
        """Run an iterator program once in the caller's network namespace."""
        with self.attach_iter() as link:
            return link.read()


class Program(OwnedFd, ProgramCalls):
    """A program of the kernel, open in this process."""

    __slots__ = ()

    @classmethod
    def open_pinned(cls, path: str | os.PathLike[str]) -> Self:
        return cls(open_pin(path))

    @classmethod
    def from_id(cls, id: int) -> Self:
        return cls(check(_native.bpf_prog_get_fd_by_id(id), "bpf_prog_get_fd_by_id", str(id)))

    @property
    def name(self) -> str:
        return self.info().name


def program_info(fd: int, room: int = 64) -> ProgramInfo:
    """Read a program's info, with room for that many map ids."""
    ids = (c_uint32 * room)()
    raw = ProgramInfoStruct(nr_map_ids=room, map_ids=addressof(ids))
    fill_info(fd, raw)
    if raw.nr_map_ids > room:
        return program_info(fd, raw.nr_map_ids)
    return ProgramInfo(
        id=raw.id,
        type=raw.type,
        name=raw.name.decode(),
        tag=bytes(raw.tag).hex(),
        map_ids=tuple(ids[: raw.nr_map_ids]),
        run_time_ns=raw.run_time_ns,
        run_cnt=raw.run_cnt,
        verified_insns=raw.verified_insns,
        xlated_bytes=raw.xlated_prog_len,
        jited_bytes=raw.jited_prog_len,
        btf_id=raw.btf_id,
        load_time_ns=raw.load_time,
    )
