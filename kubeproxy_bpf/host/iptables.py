# SPDX-License-Identifier: Apache-2.0
"""The rules that iptables keeps on this node: both families, and both ways in which it is built.

Both builds hook packets at the same time, so what is looked for is looked for in both. A legacy
table that nobody has made is not asked for: to ask makes it. Works in the network namespace of the
calling thread, and blocks. Called by ``forward`` and by ``takeover``, which know what rules mean.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Iterable, Iterator, NamedTuple

from kubeproxy_bpf.errors import RulesRefused
from kubeproxy_bpf.model.types import Family

NFT, LEGACY = "nft", "legacy"

_PREFIX = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
_LEGACY_TABLES = {Family.IPV4: "ip_tables_names", Family.IPV6: "ip6_tables_names"}
_HINTS = ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")
"""Chains that the kubelet makes in mangle, in the backend of the node (KEP-3178)."""
_LOCK_S = "5"
_SHOW_TIMEOUT_S, _RESTORE_TIMEOUT_S = 30.0, 300.0
_AS_IT_IS = "surrogateescape"
"""A comment may hold any bytes, cut within a letter, and has to go back as it came."""


class Build(NamedTuple):
    """The tables of a family in one of the two builds, and the program that shows and changes them.

    Where a system has but one build, without a name of its own, ``program`` is the plain one.
    """

    family: Family
    backend: str
    program: str

    @property
    def has_tables(self) -> bool:
        """Whether there can be rules that were not made by asking for them."""
        return self.backend == NFT or bool(_legacy_tables(self.family))

    def chain(self, name: str, table: str = "filter") -> list[str] | None:
        """The lines of a chain as iptables prints them; None where there is none."""
        if self.backend == LEGACY and table not in _legacy_tables(self.family):
            return None
        done = _run([self.program, "-w", _LOCK_S, "-t", table, "-S", name], _SHOW_TIMEOUT_S)
        return done.stdout.splitlines() if done.returncode == 0 else None

    def saved(self) -> Iterator[str]:
        """All tables as ``iptables-save`` writes them, by line: there may be hundreds of thousands.

        Raises:
            OSError: the program cannot be run.
            RulesRefused: what came before is not all.
        """
        argv = [f"{self.program}-save"]
        with subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors=_AS_IT_IS,
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            yield from process.stdout
            said = process.stderr.read()
        if process.returncode:
            raise RulesRefused(Path(argv[0]).name, _printable(said))

    def restore(self, text: str) -> None:
        """Apply tables as ``iptables-restore`` reads them, all at once, beside what there is.

        Raises:
            RulesRefused: none of it is applied.
        """
        program = f"{self.program}-restore"
        done = _run([program, "-w", _LOCK_S, "--noflush"], _RESTORE_TIMEOUT_S, text)
        if done.returncode:
            raise RulesRefused(Path(program).name, _printable(done.stderr))

    def __str__(self) -> str:
        return Path(self.program).name


def builds() -> list[Build]:
    """All that the programs of this node, or image, can show."""
    return [
        Build(family, backend, program)
        for backend in (NFT, LEGACY)
        for family in Family
        if (program := _program(family, backend)) is not None
    ]


def preferred_backend(known: Iterable[Build]) -> str:
    """Where the kubelet keeps its rules; as for iptables-wrappers nft where it says nothing."""
    hinted = {
        build.backend
        for build in known
        if any(build.chain(hint, "mangle") is not None for hint in _HINTS)
    }
    return LEGACY if hinted == {LEGACY} else NFT


def _program(family: Family, backend: str) -> str | None:
    prefix = _PREFIX[family]
    named = shutil.which(f"{prefix}-{backend}")
    if named is not None or shutil.which(prefix) is None:
        return named
    is_nft = "nf_tables" in _run([prefix, "-V"], _SHOW_TIMEOUT_S).stdout
    return shutil.which(prefix) if is_nft == (backend == NFT) else None


def _legacy_tables(family: Family) -> list[str]:
    try:
        return Path("/proc/thread-self/net", _LEGACY_TABLES[family]).read_text().split()
    except OSError:  # the kernel has no such iptables
        return []


def _printable(said: str) -> str:
    return said.encode(errors=_AS_IT_IS).decode(errors="replace").strip()


def _run(
    argv: list[str], timeout_s: float, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program; one that cannot be run, or hangs, has failed."""
    try:
        return subprocess.run(
            argv,
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors=_AS_IT_IS,
            timeout=timeout_s,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return subprocess.CompletedProcess(argv, 1, "", str(error))
