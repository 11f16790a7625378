# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a sandbox; one sentence each, which the command prints as it is.

SandboxError
├── Clash            a name that we need is taken by something that we did not make
├── AlreadyUp        the sandbox stands already
├── NotUp            the sandbox does not exist, or is half built
└── CommandFailed    a program that builds the sandbox said no
"""

from __future__ import annotations

from kubeproxy_bpf.errors import KubeProxyError


class SandboxError(KubeProxyError):
    """The sandbox cannot do what was asked."""


class Clash(SandboxError):
    """Something of the name that we need exists, and we did not make it."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(kind, name)
        self.kind = kind
        self.name = name

    def __str__(self) -> str:
        return (
            f"{self.kind} {self.name} exists and was not made by this sandbox: "
            "it stays untouched; remove it yourself or choose another --name"
        )


class AlreadyUp(SandboxError):
    """A sandbox of this name stands, whole or half."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"sandbox {self.name} exists already: take it down first "
            f"(kubeproxy-bpf sandbox down --name {self.name}) or choose another --name"
        )


class NotUp(SandboxError):
    """There is no sandbox of this name to work with."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"sandbox {self.name} is not up: "
            f"start it with kubeproxy-bpf sandbox up --name {self.name}"
        )


class CommandFailed(SandboxError):
    """A program that builds the sandbox failed; carries its own words."""

    def __init__(self, command: str, output: str) -> None:
        super().__init__(command, output)
        self.command = command
        self.output = output

    def __str__(self) -> str:
        return f"{self.command} failed: {self.output}"
