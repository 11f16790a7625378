# SPDX-License-Identifier: Apache-2.0
"""The membarrier(2) system call: memory order and grace periods without a lock in the programs.

``order_stores`` makes all stores of this process before it visible before all after it, to every
processor; it costs about a microsecond. ``wait_for_readers`` returns when every program that ran at
the time of the call has ended, because the kernel implements it as an RCU grace period; it blocks
for some milliseconds. Both say whether they could. Called by the writer and its grace periods.
"""

from __future__ import annotations

import ctypes
import os
import platform

_NUMBERS = {
    "x86_64": 324,
    "aarch64": 283,
    "riscv64": 283,
    "loongarch64": 283,
    "ppc64le": 365,
    "s390x": 356,
}
_QUERY = 0
_GLOBAL = 1 << 0
_PRIVATE_EXPEDITED = 1 << 3
_REGISTER_PRIVATE_EXPEDITED = 1 << 4

_libc = ctypes.CDLL(None, use_errno=True)


def _membarrier(command: int) -> bool:
    number = _NUMBERS.get(platform.machine())
    return number is not None and _libc.syscall(number, command, 0, 0) == 0


def register() -> bool:
    """Announce the use of ``order_stores``; once per process, before other threads exist."""
    return _membarrier(_REGISTER_PRIVATE_EXPEDITED)


def order_stores() -> bool:
    """Order the stores before and after it; False where the kernel has no such call."""
    return _membarrier(_PRIVATE_EXPEDITED)


def offers_grace() -> bool:
    """Whether ``wait_for_readers`` can be expected to wait."""
    number = _NUMBERS.get(platform.machine())
    if number is None or os.sysconf("SC_NPROCESSORS_ONLN") == 1:
        return False
    offered = int(_libc.syscall(number, _QUERY, 0, 0))
    return offered > 0 and bool(offered & _GLOBAL)


def wait_for_readers() -> bool:
    """Wait out an RCU grace period; False where the kernel does not do that.

    It refuses with nohz_full, and on a single processor it returns without waiting, although a
    program may have been preempted there.
    """
    return os.sysconf("SC_NPROCESSORS_ONLN") > 1 and _membarrier(_GLOBAL)
