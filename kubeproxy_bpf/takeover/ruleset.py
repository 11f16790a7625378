# SPDX-License-Identifier: Apache-2.0
"""Decides which rules of a table of iptables are kube-proxy's, and how they go at once.

Pure: reads what ``iptables-save`` writes, gives what ``iptables-restore --noflush`` takes, which
does all of it or nothing. A chain that somebody else's rule leads to stays, with all that it needs:
a foreign rule is never touched, and could not stand without its target. Called by ``iptables``.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Iterable, Iterator, NamedTuple

from kubeproxy_bpf.takeover.names import ACCEPT_CHAIN, JUMPS, NEEDED_BY, is_chain

TRACKING_CHAIN = "KUBE-PROXY-BPF-TRACK"
"""Ours, and no packet enters it. The kernel tracks connections as long as some rule asks about
them: without any, those that netfilter translates would break."""

_TRACKING = [
    f":{TRACKING_CHAIN} - [0:0]",
    f'-A {TRACKING_CHAIN} -m comment --comment "keeps connections of kube-proxy tracked"'
    " -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
]

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_TARGET = re.compile(r" -[jg] (\S+)")
_COMMENT = re.compile(r' -m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+)')
_FOR_ALL = re.compile(r" -j (?:DROP|REJECT)\b")
_JUMP = re.compile(r"(?: -m conntrack --ctstate NEW)? -j (\S+)")


class Rule(NamedTuple):
    chain: str
    text: str
    """What follows "-A CHAIN", with the space before it."""
    target: str


class Table(NamedTuple):
    """What matters of one table."""

    name: str
    chains: dict[str, str]
    """Policies by chain; "-" for one that is not built in."""
    foreign: list[Rule]
    """Rules in chains that are not kube-proxy's, its jumps among them."""
    reached: dict[str, set[str]]
    """What kube-proxy's chains lead to."""
    rules: Counter[str]
    """How many rules kube-proxy's chains have."""


class Removal(NamedTuple):
    """How kube-proxy's part of a table goes."""

    text: str
    """For ``iptables-restore --noflush``; empty if there is nothing to do."""
    jumps: int
    chains: int
    rules: int
    kept: tuple[str, ...]
    """Chains that stay, as rules of others need them."""
    exposed: bool
    """FORWARD drops what nobody accepts, and nothing would accept in the place of KUBE-FORWARD."""


def parse(lines: Iterable[str]) -> Iterator[Table]:
    """Read the tables of ``iptables-save``, line by line: there may be very many."""
    table = Table("", {}, [], {}, Counter())
    for line in lines:
        if line.startswith("*"):
            table = Table(line[1:].strip(), {}, [], {}, Counter())
        elif line.startswith(":"):
            chain, policy, *_ = [*line[1:].split(), ""]
            table.chains[chain] = policy
        elif line.startswith("-A "):
            _add(table, _rule(line))
        elif line.startswith("COMMIT"):
            yield table


def removal(table: Table) -> Removal:
    """What takes kube-proxy's chains and jumps away, jumps first."""
    kept = _kept(table)
    chains = [chain for chain in table.chains if is_chain(table.name, chain) and chain not in kept]
    jumps = [rule for rule in table.foreign if rule.target not in kept and _is_jump(table, rule)]
    lines = [f"-D {rule.chain}{rule.text}" for rule in jumps]
    # To declare a chain empties it; none may lead to another when that one goes.
    lines += [f":{chain} - [0:0]" for chain in chains]
    lines += [f"-X {chain}" for chain in chains]
    if lines and table.name == "nat":
        lines += [] if TRACKING_CHAIN in table.chains else _TRACKING
    text = "\n".join((f"*{table.name}", *lines, "COMMIT", "")) if lines else ""
    rules = sum(table.rules[chain] for chain in chains)
    exposed = _is_exposed(table, jumps)
    return Removal(text, len(jumps), len(chains), rules, tuple(sorted(kept)), exposed)


def tracking_removal(table: Table) -> str:
    """What takes the chain away that keeps connections tracked; empty if it is not there."""
    if TRACKING_CHAIN not in table.chains:
        return ""
    return f"*{table.name}\n:{TRACKING_CHAIN} - [0:0]\n-X {TRACKING_CHAIN}\nCOMMIT\n"


def _add(table: Table, rule: Rule) -> None:
    if is_chain(table.name, rule.chain):
        table.reached.setdefault(rule.chain, set()).add(rule.target)
        table.rules[rule.chain] += 1
    else:
        table.foreign.append(rule)


def _rule(line: str) -> Rule:
    # What nft wrote and iptables cannot express is a chain without a rule.
    chain, space, rest = line.rstrip("\n").removeprefix("-A ").partition(" ")
    text = space + rest
    # A comment may hold anything, also what looks like a jump.
    target = _TARGET.search(_QUOTED.sub('""', text))
    return Rule(chain, text, target.group(1) if target else "")


def _is_jump(table: Table, rule: Rule) -> bool:
    """Whether kube-proxy wrote it: from the right chain, for all packets or all new connections."""
    if (table.name, rule.chain, rule.target) not in JUMPS:
        return False
    return _JUMP.fullmatch(_COMMENT.sub("", rule.text)) is not None


def _is_exposed(table: Table, gone: Iterable[Rule]) -> bool:
    forward = [rule for rule in table.foreign if rule.chain == "FORWARD"]
    accepted = any(rule.target == ACCEPT_CHAIN for rule in forward)
    closed = table.chains.get("FORWARD") == "DROP" or any(
        _FOR_ALL.match(_COMMENT.sub("", rule.text)) for rule in forward
    )
    return closed and not accepted and any(rule.target == "KUBE-FORWARD" for rule in gone)


def _kept(table: Table) -> set[str]:
    """Chains of kube-proxy that rules of others lead to, and what these need in turn."""
    rest = {rule.target for rule in table.foreign if not _is_jump(table, rule)}
    kept: set[str] = set()
    while rest:
        chain = rest.pop()
        if chain in kept or chain not in table.chains or not is_chain(table.name, chain):
            continue
        kept.add(chain)
        rest |= table.reached.get(chain, set())
        rest.add(NEEDED_BY.get(chain, ""))
    return kept
