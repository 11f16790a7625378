# SPDX-License-Identifier: Apache-2.0
"""The filter tables that iptables keeps on this node, in whichever backend and family.

Both backends hook packets at the same time, so a DROP in either counts, and what others rule is
looked for in both. A legacy table that nobody has made is not asked for: to ask makes it. Works in
the network namespace of the calling thread. Called by ``forward``, which knows what rules mean.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Iterable, NamedTuple

from kubeproxy_bpf.errors import RulesRefused
from kubeproxy_bpf.model.types import Family

NFT, LEGACY = "nft", "legacy"

_PREFIX = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
_LEGACY_TABLES = {Family.IPV4: "ip_tables_names", Family.IPV6: "ip6_tables_names"}
_HINTS = ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")
"""Chains that the kubelet makes in mangle, in the backend of the node (KEP-3178)."""
_LOCK_S = "5"
_TIMEOUT_S = 30.0


class Table(NamedTuple):
    """The filter table of a family in a backend, and the program that shows and changes it."""

    family: Family
    backend: str
    program: str

    def chain(self, name: str, table: str = "filter") -> list[str] | None:
        """The lines of a chain as iptables prints them; None where there is none."""
        if self.backend == LEGACY and table not in _legacy_tables(self.family):
            return None
        done = _run([self.program, "-w", _LOCK_S, "-t", table, "-S", name])
        return done.stdout.splitlines() if done.returncode == 0 else None

    def restore(self, lines: Iterable[str]) -> None:
        """Apply these lines all at once, beside what there is.

        Raises:
            RulesRefused: none of them is applied.
        """
        program = f"{self.program}-restore"
        text = "\n".join(("*filter", *lines, "COMMIT", ""))
        done = _run([program, "-w", _LOCK_S, "--noflush"], text)
        if done.returncode:
            raise RulesRefused(program, done.stderr.strip())

    def __str__(self) -> str:
        return Path(self.program).name


def tables() -> list[Table]:
    """All that the programs of this node, or image, can show."""
    found = []
    for backend in (NFT, LEGACY):
        for family in Family:
            program = _program(family, backend)
            if program is not None:
                found.append(Table(family, backend, program))
    return found


def preferred_backend(known: Iterable[Table]) -> str:
    """Where the kubelet keeps its rules; as for iptables-wrappers nft where it says nothing."""
    hinted = {
        table.backend
        for table in known
        if any(table.chain(hint, "mangle") is not None for hint in _HINTS)
    }
    return LEGACY if hinted == {LEGACY} else NFT


def _program(family: Family, backend: str) -> str | None:
    prefix = _PREFIX[family]
    named = shutil.which(f"{prefix}-{backend}")
    if named is not None or shutil.which(prefix) is None:
        return named
    # Some systems have but one, without a name of its own.
    is_nft = "nf_tables" in _run([prefix, "-V"]).stdout
    return shutil.which(prefix) if is_nft == (backend == NFT) else None


def _legacy_tables(family: Family) -> list[str]:
    try:
        return Path("/proc/thread-self/net", _LEGACY_TABLES[family]).read_text().split()
    except OSError:
        return []


def _run(argv: list[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program; one that cannot be run, or hangs, has failed."""
    try:
        return subprocess.run(
            argv,
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # comments of others hold any bytes, and may be cut within a letter
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return subprocess.CompletedProcess(argv, 1, "", str(error))
