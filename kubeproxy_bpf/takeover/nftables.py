# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's own tables in nftables, and our table that keeps its connections alive.

The kernel translates packets of known connections only as long as somebody has a chain of the kind
nat and some rule asks about connections. Where kube-proxy was the only one, its table would take
every connection with it; so ours, with one rule that decides nothing, comes in the same transaction
in which that one goes. Works in the network namespace of the calling thread, and blocks. Called by
``leftovers``.
"""

from __future__ import annotations

import shutil
import subprocess

from kubeproxy_bpf.takeover.names import NFTABLES_TABLES

TRACKING_TABLE = "kube-proxy-bpf-tracking"

_NFT = "nft"
_KEEP_TRACKING = """\
add table {family} {table}
add chain {family} {table} tracking {{ type nat hook postrouting priority 110; policy accept; }}
flush chain {family} {table} tracking
add rule {family} {table} tracking ct status dnat continue comment "keeps connections translated"
"""


class NftablesError(OSError):
    """nft said no."""


def present() -> bool:
    """Whether the tool is there."""
    return shutil.which(_NFT) is not None


def leftovers() -> list[tuple[str, str]]:
    """kube-proxy's tables: family and name."""
    there = _tables()
    return [table for table in NFTABLES_TABLES if table in there]


def remove(tables: list[tuple[str, str]]) -> None:
    """Delete tables of kube-proxy in one transaction, and go on tracking.

    Raises:
        NftablesError: nothing was changed.
    """
    text = ""
    for family, name in tables:
        text += _KEEP_TRACKING.format(family=family, table=TRACKING_TABLE)
        text += f"delete table {family} {name}\n"
    _run([_NFT, "-f", "-"], text)


def stop_tracking() -> bool:
    """Delete our tables; tells whether there was one."""
    ours = [table for table in _tables() if table[1] == TRACKING_TABLE]
    if ours:
        _run([_NFT, "-f", "-"], "".join(f"delete table {f} {name}\n" for f, name in ours))
    return bool(ours)


def _tables() -> set[tuple[str, str]]:
    lines = (line.split() for line in _run([_NFT, "list", "tables"]).splitlines())
    return {(words[1], words[2]) for words in lines if len(words) == 3 and words[0] == "table"}


def _run(argv: list[str], text: str = "") -> str:
    done = subprocess.run(argv, input=text, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise NftablesError(done.returncode, f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout
