# SPDX-License-Identifier: Apache-2.0
"""Runs a program as a container's first process: namespaces of its own for mounts and processes.

    contained.py [--no-bpffs] PROGRAM ARGUMENTS...

With ``--no-bpffs`` no BPF file system is visible inside, as in kubeadm's DaemonSet. SIGTERM is
passed on, and the program ends with this process, as a container does with its runtime's order.
Needs nothing but Python, since it stands before each start of a proxy.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWPID = 0x20000, 0x20000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def main(argv: list[str]) -> int:
    hidden = argv[:1] == ["--no-bpffs"]
    program = argv[1:] if hidden else argv
    _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWPID), "unshare")
    child = os.fork()
    if child == 0:
        _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")
        _furnish(hidden)
        os.execvp(program[0], program)
    signal.signal(signal.SIGTERM, lambda number, _frame: os.kill(child, number))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _furnish(without_bpffs: bool) -> None:
    """Nothing that is mounted here is seen outside, and the other way round."""
    private = _libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    if private < 0 and ctypes.get_errno() != errno.EINVAL:  # a chroot's root is no mount point
        _check(private, "mount /")
    if without_bpffs:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        points = [line.split()[4] for line in lines if " - bpf " in line]
        for point in reversed(points):
            _check(_libc.umount2(os.fsencode(point), _MNT_DETACH), f"umount {point}")
    _check(_libc.mount(b"proc", b"/proc", b"proc", 0, None), "mount /proc")


def _check(result: int, call: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
