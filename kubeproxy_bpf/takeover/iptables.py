# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's rules in iptables: found, and taken away with one transaction for each table.

A node may hold rules of either build (nf_tables, legacy), whichever the image of its kube-proxy
chose. Which lines it takes is ``ruleset``'s business, ``host.iptables`` runs the programs. Works in
the network namespace of the calling thread, and blocks. Called by ``leftovers``.
"""

from __future__ import annotations

from kubeproxy_bpf.host.iptables import Build, builds
from kubeproxy_bpf.takeover.ruleset import Removal, parse, removal, tracking_removal

_ORDER = ("nat", "filter", "mangle")
"""While filter still accepts what nat translated nothing is half served."""


def with_tables() -> list[Build]:
    """Builds of this node in which there can be rules."""
    return [build for build in builds() if build.has_tables]


def removals(build: Build) -> dict[str, Removal]:
    """What of kube-proxy there is, by table; tables without any are left out.

    Raises:
        OSError, RulesRefused: it could not be looked at.
    """
    found = {table.name: removal(table) for table in parse(build.saved())}
    return {name: found[name] for name in _ORDER if name in found and _is_some(found[name])}


def remove(build: Build, what: Removal) -> None:
    """Take it away in one transaction.

    Raises:
        RulesRefused: nothing was changed.
    """
    if what.text:
        build.restore(what.text)


def stop_tracking(build: Build) -> bool:
    """Remove our chain that keeps connections tracked; tells whether there was one."""
    texts = [text for text in map(tracking_removal, parse(build.saved())) if text]
    for text in texts:
        build.restore(text)
    return bool(texts)


def _is_some(what: Removal) -> bool:
    return bool(what.text or what.kept)
