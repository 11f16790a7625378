# SPDX-License-Identifier: Apache-2.0
"""The seccomp profile that ``RuntimeDefault`` stands for, applied to the calling process.

Container runtimes allow what they know and consider harmless, some calls together with a
capability, and refuse everything else. This says the same the other way round: of all calls that
libseccomp knows by name, those below are refused or want a capability; a call without a name here
is refused like any other that the profile does not know. The rules are those of Docker since 23.0
and containerd since 1.7, where CAP_BPF and CAP_PERFMON open their calls. Calls of
other architectures (32 bits), which containers may make, end the process.

Loaded by ``container_init`` from its path, so it imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import errno
import socket
from typing import Iterable, NamedTuple

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_NOT_EQUAL, _BELOW, _EQUAL, _ABOVE, _MASKED_EQUAL = 1, 2, 4, 6, 7
_UNKNOWN = -1
_HIGHEST_NUMBER = 511  # above stand calls of other binary interfaces

_NEVER = (
    "_sysctl add_key afs_syscall create_module get_kernel_syms getpmsg io_uring_enter "
    "io_uring_register io_uring_setup kexec_file_load kexec_load keyctl migrate_pages move_pages "
    "nfsservctl pivot_root putpmsg request_key security swapoff swapon sysfs tuxcall uselib "
    "userfaultfd ustat vserver"
).split()
_WITH = {
    # What any of the capabilities opens; without one of them it is refused.
    "sys_admin": (
        "bpf clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount "
        "mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname "
        "sethostname setns syslog umount2 unshare"
    ),
    "bpf": "bpf",
    "perfmon": "perf_event_open",
    "dac_read_search": "open_by_handle_at",
    "sys_boot": "reboot",
    "sys_chroot": "chroot",
    "sys_module": "delete_module finit_module init_module query_module",
    "sys_nice": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "sys_pacct": "acct",
    "sys_ptrace": "kcmp pidfd_getfd process_madvise",
    "sys_rawio": "ioperm iopl",
    "sys_time": "clock_settime settimeofday",
    "sys_tty_config": "vhangup",
    "syslog": "syslog",
}
_NAMESPACES = 0x7E020000  # CLONE_NEW… of clone(2), which only CAP_SYS_ADMIN may give
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
# All but the kernel's cryptography and the machine's hypervisor.
_FAMILIES = ((_BELOW, socket.AF_ALG), (_EQUAL, 39), (_ABOVE, socket.AF_VSOCK))


class Refusal(NamedTuple):
    """A call that ends with an errno; where ``argument`` is given, only with this value of it."""

    name: str
    code: int
    argument: int | None = None
    value: int = 0


class _Comparison(ctypes.Structure):
    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    ]


class Filter:
    """A filter that refuses with EPERM what no rule names."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_char_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(_ERRNO | errno.EPERM))

    def names(self) -> list[str]:
        """All calls of this machine that the library knows."""
        resolve = self._library.seccomp_syscall_resolve_num_arch
        found = (resolve(0, number) for number in range(_HIGHEST_NUMBER + 1))
        return [name.decode() for name in found if name]

    def allow(self, name: str, *comparisons: _Comparison) -> None:
        self._add(_ALLOW, name, *comparisons)

    def refuse(self, name: str, code: int, *comparisons: _Comparison) -> None:
        if code != errno.EPERM:  # which is what a call without a rule ends with
            self._add(_ERRNO | code, name, *comparisons)

    def refuse_as(self, refusal: Refusal) -> None:
        """Refuse a call; where that depends on an argument, allow the others."""
        name, code, argument, value = refusal
        if argument is None:
            self.refuse(name, code)
            return
        self.refuse(name, code, _Comparison(argument, _EQUAL, value, 0))
        self.allow(name, _Comparison(argument, _NOT_EQUAL, value, 0))

    def load(self) -> None:
        """Apply it to this process and all that it becomes."""
        self._check(self._library.seccomp_load(self._context), "seccomp_load")

    def _add(self, action: int, name: str, *comparisons: _Comparison) -> None:
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number == _UNKNOWN:
            return
        array = (_Comparison * max(1, len(comparisons)))(*comparisons)
        result = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(comparisons), array
        )
        self._check(result, name)

    def _check(self, result: int, what: str) -> None:
        if result < 0:
            raise OSError(-result, f"{what}: {errno.errorcode.get(-result, result)}")


def runtime_default(capabilities: list[str], refused: Iterable[Refusal]) -> Filter:
    """The profile for a container with these capabilities (lower case, without CAP_).

    ``refused`` is what a runtime of another age, or a kernel that has less, refuses besides.
    """
    made = Filter()
    opened = {name for held in capabilities for name in _WITH.get(held, "").split()}
    conditional = {name for names in _WITH.values() for name in names.split()} - opened
    special = {"clone", "personality", "socket", *(each.name for each in refused)}
    for name in made.names():
        if name not in special and name not in conditional and name not in _NEVER:
            made.allow(name)
    for each in refused:
        made.refuse_as(each)
    if "clone3" in conditional:
        made.refuse("clone3", errno.ENOSYS)  # its flags cannot be looked at: libc falls back
    for value in _PERSONALITIES:
        made.allow("personality", _Comparison(0, _EQUAL, value, 0))
    for operator, family in _FAMILIES:
        made.allow("socket", _Comparison(0, operator, family, 0))
    if "sys_admin" in capabilities:
        made.allow("clone")
    else:
        made.allow("clone", _Comparison(0, _MASKED_EQUAL, _NAMESPACES, 0))
    return made
