# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's rules in iptables: both families, and both ways in which iptables is built.

A node may hold rules of either backend (nf_tables, legacy), whichever the image of its kube-proxy
chose. Each table goes in one transaction of ``iptables-restore``; which lines that takes is
``ruleset``'s business. Works in the network namespace of the calling thread, and blocks. Called by
``leftovers``.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Iterator, NamedTuple

from kubeproxy_bpf.takeover.ruleset import Removal, Table, parse, removal, tracking_removal

_LOCK_WAIT_S = 5
_AS_IT_IS = "surrogateescape"
"""A comment may hold any bytes, and has to go back as it came."""
_ORDER = ("nat", "filter", "mangle")
"""While filter still accepts what nat translated nothing is half served."""


class Backend(NamedTuple):
    """One set of tables: a family in one of the two builds of iptables."""

    command: str
    """``iptables-nft`` and the like; ``-save`` and ``-restore`` are appended."""
    tables: Path | None
    """Lists the tables that the kernel has; None where to ask creates none."""

    @property
    def present(self) -> bool:
        """Whether there can be rules: the tool is there, and so are tables."""
        if shutil.which(f"{self.command}-save") is None:
            return False
        if self.tables is None:
            return True
        try:
            return bool(self.tables.read_text().strip())
        except OSError:  # the kernel has no such iptables
            return False


class IptablesError(OSError):
    """A program of iptables said no."""


def installed() -> bool:
    """Whether there is any build of iptables to ask."""
    return any(shutil.which(f"iptables{build}-save") for build in ("-nft", "-legacy", ""))


def backends() -> list[Backend]:
    """Those of this node; the plain name where the tools do not tell the builds apart."""
    found = []
    for family, listed in (("iptables", "ip_tables_names"), ("ip6tables", "ip6_tables_names")):
        # To ask the legacy build for a table would create it, and load its module.
        legacy = Backend(f"{family}-legacy", Path("/proc/thread-self/net") / listed)
        both = [each for each in (Backend(f"{family}-nft", None), legacy) if each.present]
        plain = Backend(family, None)
        if not both and not shutil.which(f"{family}-legacy-save") and plain.present:
            both = [plain]
        found += both
    return found


def removals(backend: Backend) -> dict[str, Removal]:
    """What of kube-proxy there is, by table; tables without any are left out."""
    found = {table.name: removal(table) for table in _saved(backend)}
    return {name: found[name] for name in _ORDER if name in found and _is_some(found[name])}


def remove(backend: Backend, what: Removal) -> None:
    """Take it away in one transaction.

    Raises:
        IptablesError: nothing was changed.
    """
    if what.text:
        _restore(backend, what.text)


def stop_tracking(backend: Backend) -> bool:
    """Remove our chain that keeps connections tracked; tells whether there was one."""
    texts = [text for text in map(tracking_removal, _saved(backend)) if text]
    for text in texts:
        _restore(backend, text)
    return bool(texts)


def _is_some(what: Removal) -> bool:
    return bool(what.text or what.kept)


def _saved(backend: Backend) -> Iterator[Table]:
    """Read by line: a large cluster has hundreds of thousands of rules."""
    argv = [f"{backend.command}-save"]
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors=_AS_IT_IS,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        yield from parse(process.stdout)
        said = process.stderr.read()
    if process.returncode:
        raise IptablesError(process.returncode, f"{argv[0]}: {said.strip()}")


def _restore(backend: Backend, text: str) -> None:
    argv = [f"{backend.command}-restore", "-w", str(_LOCK_WAIT_S), "--noflush"]
    done = subprocess.run(argv, input=text, capture_output=True, encoding="utf-8", errors=_AS_IT_IS)
    if done.returncode:
        raise IptablesError(done.returncode, f"{argv[0]}: {done.stderr.strip()}")
