# SPDX-License-Identifier: Apache-2.0
"""Facts and switches of the whole system: versions, processors, statistics, the raw bpf(2)."""

from __future__ import annotations

import ctypes
from functools import cache

from . import _native
from .errors import MissingSymbol, check
from .ownedfd import OwnedFd

_STATS_RUN_TIME = 0


def libbpf_version() -> tuple[int, int]:
    """Return major and minor version of the libbpf in use."""
    if _native.VERSION is None:
        raise MissingSymbol("libbpf_major_version", _native.MINIMUM, None)
    return _native.VERSION


@cache
def possible_cpus() -> int:
    """Count the processors that could ever come online: a per-CPU map has a value for each."""
    return check(_native.libbpf_num_possible_cpus(), "libbpf_num_possible_cpus")


def enable_stats() -> OwnedFd:
    """Let the kernel count runs and run time of all programs until the result is closed."""
    return OwnedFd(check(_native.bpf_enable_stats(_STATS_RUN_TIME), "bpf_enable_stats"))


def bpf_call(command: int, attr: ctypes.Structure, name: str, object: str = "") -> int:
    """Call bpf(2) directly, for what old versions of libbpf cannot express."""
    size = ctypes.sizeof(attr)
    result = _native.syscall(_native.SYS_BPF, command, ctypes.byref(attr), size)
    return check(None if result < 0 else result, name, object)
