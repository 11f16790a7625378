# SPDX-License-Identifier: Apache-2.0
"""Lets forwarded traffic of Services pass where netfilter's FORWARD drops by default [E12].

A few static rules in one chain, which FORWARD jumps to behind the rules of others, nothing per
Service: accept what belongs to a known connection, and what bears the mark that our programs give
to packets which they translated and hand to the stack. kube-proxy's iptables mode has such rules
too, which go when it is removed. Where FORWARD is open nothing is touched. The mark stays on the
packet: while rules of a kube-proxy are still there, they masquerade by it. Base chains of others
that drop cannot be overruled from elsewhere; they are named in the log. ``app`` looks before the
programs are loaded, which carry the mark, and keeps looking; ``remove_forward_accept`` is for a
cleanup.
"""

from __future__ import annotations

import asyncio
import re
from typing import Sequence

import structlog

from kubeproxy_bpf.errors import RulesRefused
from kubeproxy_bpf.host.basechains import dropping_chains
from kubeproxy_bpf.host.iptables import NFT, Build, builds, preferred_backend
from kubeproxy_bpf.host.rulewatch import RuleWatch
from kubeproxy_bpf.model.types import Family
from kubeproxy_bpf.threads import in_thread

CHAIN = "KUBE-PROXY-BPF-FORWARD"

_FORWARD = "FORWARD"
_JUMP = f"-A {_FORWARD} -j {CHAIN}"
_DROPS_ALL = re.compile(rf'-A {_FORWARD}( -m comment --comment (".*"|\S+))? -j (DROP|REJECT)\b')
_KUBE_PROXY = re.compile(rf"-A {_FORWARD} .*-j KUBE-FORWARD$")
_NFT_FAMILY = {Family.IPV4: "ip", Family.IPV6: "ip6"}
_LEAST_S = 5.0
"""Between two looks, however often rules change."""

_log = structlog.get_logger(__name__)


def accept_rules(mark: int) -> list[str]:
    """The chain, as iptables prints it."""
    return [
        f"-N {CHAIN}",
        f"-A {CHAIN} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"-A {CHAIN} -m mark --mark {mark:#x}/{mark:#x} -j ACCEPT",
    ]


def is_closed(forward: Sequence[str]) -> bool:
    """Whether FORWARD drops what nobody accepts: by its policy, or a last rule for all."""
    return f"-P {_FORWARD} DROP" in forward or any(map(_DROPS_ALL.match, forward))


def is_wanted(mode: str, forward: Sequence[str], preferred: bool) -> bool:
    """Whether our chain belongs before these rules of FORWARD.

    1. off: never. 2. on: in the backend of the node, whatever its rules. 3. FORWARD is closed.
    4. A kube-proxy accepts there, and with a takeover its rules go. 5. Ours is there: why may
    not be seen any more, as with 4 after the takeover.
    """
    if mode == "off":
        return False
    return (
        (mode == "on" and preferred)
        or is_closed(forward)
        or any(map(_KUBE_PROXY.match, forward))
        or _JUMP in forward
    )


class ForwardAccept:
    """The accept rules of one instance in the network namespace of the process."""

    def __init__(self, mode: str, mark: int, look_s: float) -> None:
        """``mode``: auto, on or off; ``look_s``: how long a flush of legacy rules may go unseen."""
        self._mode = mode
        self._mark = mark
        self._look_s = look_s
        self._told: list[str] = []
        self._refused: dict[Build, str] = {}
        self._marking = True

    def start(self) -> int:
        """Look, and make it so; return the mark for the programs, or 0 without need; blocks."""
        if not builds() and self._mode != "off":
            _log.warning("forward_not_looked_at", missing="iptables")
        self._marking = self.sync()
        foreign = foreign_drops()
        if foreign:
            _log.warning("forward_dropped_by_others", chains=foreign)
        return self._mark if self._marking else 0

    def sync(self) -> bool:
        """Make it so; return whether FORWARD is to accept anywhere. Blocks; failures are logged."""
        known = builds()
        preferred = preferred_backend(known) if self._mode == "on" else ""
        wanted, closed = [], []
        for build in known:
            forward = build.chain(_FORWARD)
            if forward is None and build.backend != preferred:
                continue  # there are no such rules, or no such kernel
            forward = forward or []
            if is_closed(forward):
                closed.append(str(build))
            if is_wanted(self._mode, forward, build.backend == preferred):
                wanted.append(str(build))
                self._apply(build, _missing(build, forward, accept_rules(self._mark)))
            else:
                self._apply(build, _removal(build, forward))
        self._tell(wanted, closed)
        return bool(wanted)

    async def run(self) -> None:
        """Put back what others flush, and see whether FORWARD closes; runs for ever."""
        if self._mode == "off":
            await asyncio.Event().wait()
        with RuleWatch() as watch:
            while True:
                await watch.changed(self._look_s)
                await in_thread(self.sync)
                await asyncio.sleep(_LEAST_S)

    def _apply(self, build: Build, lines: Sequence[str]) -> None:
        """A refusal is told once, and tried again at the next look."""
        refused = ""
        if lines:
            try:
                build.restore(_text(lines))
            except RulesRefused as error:
                refused = str(error)
        if refused != self._refused.get(build, ""):
            self._refused[build] = refused
            if refused:
                _log.error("forward_rules_refused", table=str(build), error=refused)

    def _tell(self, wanted: list[str], closed: list[str]) -> None:
        """Say what is new."""
        if wanted and not self._marking:
            # Docker, say, closed it behind us; the programs carry their mark from the start.
            self._marking = True
            _log.error("forward_closed_since_start", tables=wanted, needs="restart of kube-proxy")
        told = wanted or closed
        if told == self._told:
            return
        self._told = told
        if wanted:
            _log.info("forward_accepts", tables=wanted, chain=CHAIN)
        elif closed:
            _log.warning("forward_closed", tables=closed, forward_accept=self._mode)


def remove_forward_accept() -> list[str]:
    """Take our rules out of all tables, for a cleanup; return of which. Blocks.

    Raises:
        RulesRefused: some are still there.
    """
    removed = []
    for build in builds():
        lines = _removal(build, build.chain(_FORWARD) or [])
        if lines:
            build.restore(_text(lines))
            removed.append(str(build))
    return removed


def foreign_drops() -> list[str]:
    """Base chains of nftables, but for those of iptables, that drop at the forward hook by policy.

    Also one in the place of iptables' own that iptables does not understand.
    """
    known = {
        f"{_NFT_FAMILY[build.family]} filter {_FORWARD}"
        for build in builds()
        if build.backend == NFT and build.chain(_FORWARD) is not None
    }
    try:
        return sorted(set(dropping_chains()) - known)
    except OSError as error:
        _log.debug("nftables_not_looked_at", error=str(error))
        return []


def _text(lines: Sequence[str]) -> str:
    return "\n".join(("*filter", *lines, "COMMIT", ""))


def _missing(build: Build, forward: Sequence[str], rules: Sequence[str]) -> list[str]:
    """What it takes until the chain is there, as it should be, and used."""
    lines = []
    if build.chain(CHAIN) != rules:
        lines += [f":{CHAIN} - [0:0]", *rules[1:]]
    if _JUMP not in forward:
        # Behind what others refuse (policies of a CNI), before a rule that refuses all the rest.
        rules = [line for line in forward if line.startswith("-A ")]
        last = next(
            (n for n, line in enumerate(rules, 1) if _DROPS_ALL.match(line)), len(rules) + 1
        )
        lines.append(f"-I {_FORWARD} {last} -j {CHAIN}")
    return lines


def _removal(build: Build, forward: Sequence[str]) -> list[str]:
    """What it takes until nothing of ours is there."""
    lines = [f"-D {_FORWARD} -j {CHAIN}" for line in forward if line == _JUMP]
    if build.chain(CHAIN) is not None:
        lines += [f"-F {CHAIN}", f"-X {CHAIN}"]
    return lines
