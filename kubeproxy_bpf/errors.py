# SPDX-License-Identifier: Apache-2.0
"""The exception tree. Exceptions carry fields; text is made once, in ``__str__``.

KubeProxyError
├── ConfigError            what the operator wrote does not hold
├── ApiError               the API server said no, or nothing
├── SysctlRefused          a setting of the node that was asked for cannot be made
├── RulesRefused           a program of netfilter did not take what it was given
└── DataplaneError         the kernel side
    ├── LayoutError        C and Python disagree on a struct
    ├── UnsupportedKernel  a feature is missing
    ├── MapFull            no room for an entry
    └── WriterBusy         another instance writes

``libbpf.errors`` holds LibbpfError(OSError) and VerifierError; ``dataplane`` translates them.
Configuration errors, unsupported kernels, layout errors and an eternal task that ended end the
process; everything else is reported and retried.
"""

from __future__ import annotations

from typing import Sequence

from kubeproxy_bpf.excerpt import excerpt

_LONGEST_PROBLEM = 800


class KubeProxyError(Exception):
    """Base of all errors that the project raises on purpose."""


class ConfigError(KubeProxyError):
    """Flags or configuration that cannot be used; lists every problem, not only the first."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems)
        self.problems = tuple(excerpt(problem, _LONGEST_PROBLEM) for problem in problems)

    def __str__(self) -> str:
        return "; ".join(self.problems)


class ApiError(KubeProxyError):
    """An answer of the API server that is not the data asked for."""

    def __init__(self, status: int, reason: str, message: str = "") -> None:
        super().__init__(status, reason, message)
        self.status = status
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.status} {self.reason}: {self.message}"


class SysctlRefused(KubeProxyError):
    """A setting of the kernel that the operator asked for cannot be made."""

    def __init__(self, path: str, value: int, reason: str) -> None:
        super().__init__(path, value, reason)
        self.path = path
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path} cannot be set to {self.value}: {self.reason}"


class RulesRefused(KubeProxyError):
    """A program of netfilter did not take rules, or did not show them; all is as before."""

    def __init__(self, program: str, message: str) -> None:
        super().__init__(program, message)
        self.program = program
        self.message = message

    def __str__(self) -> str:
        return f"{self.program}: {self.message}"


class DataplaneError(KubeProxyError):
    """The kernel side of the proxy cannot do what was asked."""


class LayoutError(DataplaneError):
    """A C struct and its Python record disagree."""

    def __init__(self, struct: str, record: str, detail: str) -> None:
        super().__init__(struct, record, detail)
        self.struct = struct
        self.record = record
        self.detail = detail

    def __str__(self) -> str:
        return f"struct {self.struct} and {self.record} disagree: {self.detail}"


class UnsupportedKernel(DataplaneError):
    """This kernel, or this container, lacks something that the proxy cannot do without."""

    def __init__(self, feature: str, needs: str) -> None:
        super().__init__(feature, needs)
        self.feature = feature
        self.needs = needs

    def __str__(self) -> str:
        return f"{self.feature} is not available: {self.needs}"


class MapFull(DataplaneError):
    """A map has no room for what was to be written."""

    def __init__(self, name: str, max_entries: int) -> None:
        super().__init__(name, max_entries)
        self.name = name
        self.max_entries = max_entries

    def __str__(self) -> str:
        return f"map {self.name} is full ({self.max_entries} entries)"


class WriterBusy(DataplaneError):
    """Another process of the same instance holds the writer's lock; ``holder`` says which."""

    def __init__(self, instance: str, holder: str = "") -> None:
        super().__init__(instance, holder)
        self.instance = instance
        self.holder = holder

    def __str__(self) -> str:
        who = f" ({self.holder})" if self.holder else ""
        return f"another kube-proxy{who} writes the maps of instance {self.instance}"
