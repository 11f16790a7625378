# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between us, libbpf and the kernel, and the one place that notices it.

OSError
└── LibbpfError         a call said no: errno, call, object
    ├── BatchError      a batch stopped early: done says how far it came
    ├── VerifierError   the kernel refused a program: program, log
    └── MissingSymbol   libbpf is absent or too old for a call
BtfError(ValueError)    type information that is cut short or makes no sense

Callers branch on type and errno, never on text; ``dataplane`` turns these into its own errors.
"""

from __future__ import annotations

import ctypes
import errno as codes
import os

ENOTSUPP = 524  # internal to the kernel, yet returned by bpf(2); unknown to the C library

_EXTRA_TEXTS = {
    ENOTSUPP: "not supported by this kernel for this kind of object",
    4000: "the ELF file cannot be read",
    4001: "not a valid BPF object",
    4002: "the kernel version in the object does not match",
    4003: "the object has the wrong byte order",
    4004: "internal error in libbpf",
    4005: "a relocation failed",
    4006: "the program could not be loaded",
    4007: "the verifier refused the program",
    4008: "the program is too big",
    4009: "the kernel is too old",
    4010: "the kernel does not know this type of program",
}


def error_text(code: int) -> str:
    """Describe an errno or one of libbpf's own codes, with its symbolic name where it has one."""
    text = _EXTRA_TEXTS.get(code) or os.strerror(code)
    name = "ENOTSUPP" if code == ENOTSUPP else codes.errorcode.get(code)
    return f"{text} [{name}]" if name else text


class LibbpfError(OSError):
    """A call to libbpf or bpf(2) failed."""

    def __init__(self, errno: int, call: str, object: str = "") -> None:
        super().__init__(errno, error_text(errno))
        self.call = call
        self.object = object

    def __str__(self) -> str:
        subject = f"{self.call}({self.object})" if self.object else self.call
        return f"{subject}: {self.strerror}"


class BatchError(LibbpfError):
    """A batch stopped at element number ``done``; all before it are in place."""

    def __init__(self, errno: int, call: str, object: str, done: int) -> None:
        super().__init__(errno, call, object)
        self.done = done

    def __str__(self) -> str:
        return f"{super().__str__()} (after {self.done} elements)"


class VerifierError(LibbpfError):
    """The kernel refused a program; ``log`` is all that the verifier wrote."""

    def __init__(self, errno: int, program: str, log: str) -> None:
        super().__init__(errno, "bpf_object__load", program)
        self.program = program
        self.log = log

    def __str__(self) -> str:
        return f"program {self.program} was refused: {self.last_line}"

    @property
    def last_line(self) -> str:
        """The last line that explains something: the verifier's statistics come after it."""
        noise = ("processed ", "verification time ", "stack depth ", "max_states ")
        lines = [line.strip() for line in self.log.splitlines()]
        useful = [line for line in lines if line and not line.startswith(noise)]
        return useful[-1] if useful else error_text(self.errno or 0)


class MissingSymbol(LibbpfError):
    """A function is needed that the installed libbpf does not have."""

    def __init__(self, symbol: str, needs: tuple[int, int], found: tuple[int, int] | None) -> None:
        super().__init__(codes.ENOSYS, symbol)
        self.needs = needs
        self.found = found

    def __str__(self) -> str:
        needs = "{}.{}".format(*self.needs)
        if self.found is None:
            return f"libbpf.so.1 was not found: install libbpf {needs} or newer"
        found = "{}.{}".format(*self.found)
        return f"{self.call} needs libbpf {needs} or newer, found {found}"


class BtfError(ValueError):
    """BTF that cannot be read."""


def check(result: int | None, call: str, object: str = "") -> int:
    """Return what a call returned, or raise: negative is -errno, NULL leaves errno behind."""
    if result is None:
        raise LibbpfError(ctypes.get_errno() or codes.EINVAL, call, object)
    if result < 0:
        raise LibbpfError(-result, call, object)
    return result
