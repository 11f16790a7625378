# SPDX-License-Identifier: Apache-2.0
"""Everything that a kube-proxy left in this network namespace: found, counted, removed.

Tolerant by step: a tool that is missing or fails concerns what it would have removed, and is told;
the rest goes. Calls block. Called by ``takeover`` and by ``cleanup``; what stands between these
calls, and when it is time for them, is theirs to know.
"""

from __future__ import annotations

import errno
from collections import Counter
from functools import partial
from typing import Callable, Iterator, NamedTuple, Sequence, TypeVar

from kubeproxy_bpf.errors import RulesRefused
from kubeproxy_bpf.host.iptables import Build, builds
from kubeproxy_bpf.takeover import iptables, ipvs, nftables
from kubeproxy_bpf.takeover.ruleset import Removal

T = TypeVar("T")
Step = tuple[str, Callable[[], object]]


class Leftovers(NamedTuple):
    """What there is of kube-proxy."""

    tables: list[tuple[Build, str, Removal]]
    """Of iptables: whose, the name, and how it goes."""
    nftables: list[tuple[str, str]]
    servers: int
    device: int | None
    sets: list[str]
    problems: list[str]
    """What could not be looked at."""

    @property
    def counts(self) -> dict[str, int]:
        """How many there are that would be removed, by kind."""
        counts = Counter(
            iptables_jumps=sum(what.jumps for _, _, what in self.tables),
            iptables_chains=sum(what.chains for _, _, what in self.tables),
            iptables_rules=sum(what.rules for _, _, what in self.tables),
            nftables_tables=len(self.nftables),
            ipvs_servers=self.servers,
            ipvs_devices=self.device is not None,
            ipsets=len(self.sets),
        )
        return {kind: count for kind, count in counts.items() if count}

    @property
    def kept(self) -> list[str]:
        """Chains that others need, as "command table chain"."""
        return [
            f"{build} {name} {chain}" for build, name, what in self.tables for chain in what.kept
        ]


def missing_tools() -> list[str]:
    """Without these nothing can be said about their rules."""
    tools = {"iptables": bool(builds()), "nft": nftables.present()}
    return [tool for tool, there in tools.items() if not there]


def find() -> Leftovers:
    """Look for all of it."""
    problems: list[str] = []

    def look(what: str, function: Callable[[], T], nothing: T) -> T:
        try:
            return function()
        except (OSError, RulesRefused) as error:
            problems.append(f"{what}: {_reason(error)}")
            return nothing

    none: dict[str, Removal] = {}
    tables = [
        (build, name, what)
        for build in iptables.with_tables()
        for name, what in look(str(build), partial(iptables.removals, build), none).items()
    ]
    no_tables: list[tuple[str, str]] = []
    own_tables = look("nftables", nftables.leftovers, no_tables) if nftables.present() else []
    return Leftovers(
        tables,
        own_tables,
        look("virtual servers", ipvs.servers, 0),
        ipvs.device(),
        look("ip sets", ipvs.sets, list[str]()),
        problems,
    )


def remove(found: Leftovers, accepts_needed: bool = False, spared: Sequence[str] = ()) -> list[str]:
    """Remove what was found, as far as it goes; returns a sentence for each thing that stays.

    With ``accepts_needed`` nothing goes that forwarded traffic of Services still needs to pass;
    virtual servers in the ``spared`` CIDRs are somebody else's.
    """
    return run(_steps(found, accepts_needed, spared))


def stop_tracking() -> list[str]:
    """Remove what keeps connections tracked that kube-proxy's rules opened; returns problems."""
    steps: list[Step] = [
        (f"{build} tracking", partial(iptables.stop_tracking, build))
        for build in iptables.with_tables()
    ]
    if nftables.present():
        steps.append(("nftables tracking", nftables.stop_tracking))
    return run(steps)


def run(steps: Iterator[Step] | list[Step]) -> list[str]:
    """Do every step, whatever becomes of the others; returns what failed."""
    problems = []
    for what, step in steps:
        try:
            step()
        except (OSError, RulesRefused) as error:
            problems.append(f"{what}: {_reason(error)}")
    return problems


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _refuse(reason: str) -> None:
    raise OSError(errno.EBUSY, reason)


def _steps(found: Leftovers, accepts_needed: bool, spared: Sequence[str]) -> Iterator[Step]:
    for build, name, what in found.tables:
        step = partial(iptables.remove, build, what)
        if what.exposed and accepts_needed:
            step = partial(_refuse, "FORWARD drops, and nothing accepts in place of these rules")
        yield f"{build} {name}", step
    if found.nftables:
        yield "nftables", partial(nftables.remove, found.nftables)
    if found.device is not None:
        yield "ipvs", partial(ipvs.remove, found.device, found.servers, spared)
    # Rules looked into the sets, so these go last.
    for name in found.sets:
        yield f"ip set {name}", partial(ipvs.remove_set, name)
