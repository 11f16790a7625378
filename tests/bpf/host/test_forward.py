# SPDX-License-Identifier: Apache-2.0
"""The accept rules of FORWARD, in both backends of iptables and both families of one namespace."""

from __future__ import annotations

import asyncio
import os
import shutil
from functools import partial

import pytest

from kubeproxy_bpf.host.forward import CHAIN, ForwardAccept, foreign_drops, remove_forward_accept
from kubeproxy_bpf.host.iptables import builds, preferred_backend

pytestmark = pytest.mark.root

MARK = 0x4000
PROGRAMS = ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"]
EACH = pytest.mark.parametrize("program", PROGRAMS)
RULES = [
    f"-N {CHAIN}",
    f"-A {CHAIN} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    f"-A {CHAIN} -m mark --mark 0x4000/0x4000 -j ACCEPT",
]


def start(scene, mode="auto"):
    return scene.on_node(ForwardAccept(mode, MARK, 30.0).start)


def show(scene, program, chain="FORWARD"):
    return scene.run("node", program, "-S", chain).splitlines()


def has_chain(scene, program):
    return f"-N {CHAIN}" in scene.run("node", program, "-S").splitlines()


@EACH
def test_rules_stand_behind_others_where_forward_drops(scene, program):
    """Policies of a CNI are asked first. In the table that drops and in no other; with a mark."""
    scene.run("node", program, "-P", "FORWARD", "DROP")
    scene.run("node", program, "-A", "FORWARD", "-j", "LOG")

    assert MARK == start(scene)

    assert ["-P FORWARD DROP", "-A FORWARD -j LOG", f"-A FORWARD -j {CHAIN}"] == show(
        scene, program
    )
    assert RULES == show(scene, program, CHAIN)
    # To ask a legacy table whether it has rules would make it.
    listed = scene.run("node", "sh", "-c", "cat /proc/net/ip*_tables_names").split()
    assert listed == (["filter"] if "legacy" in program else [])
    others = [each for each in PROGRAMS if each.endswith("-nft") and each != program]
    assert not any(has_chain(scene, other) for other in others)


@EACH
def test_rules_stand_before_a_rule_that_refuses_all_the_rest(scene, program):
    """Behind it nobody would ask them."""
    scene.run("node", program, "-A", "FORWARD", "-j", "LOG")
    scene.run("node", program, "-A", "FORWARD", "-j", "DROP")

    assert MARK == start(scene)

    wanted = ["-P FORWARD ACCEPT", "-A FORWARD -j LOG", f"-A FORWARD -j {CHAIN}"]
    assert [*wanted, "-A FORWARD -j DROP"] == show(scene, program)


@EACH
def test_comments_of_others_hold_any_bytes(scene, program):
    """One that is no text keeps nobody from starting."""
    rule = f"{program} -A FORWARD -m comment --comment \"$(printf 'b\\374ro')\" -j ACCEPT"
    scene.run("node", "sh", "-c", f"{rule}; {program} -P FORWARD DROP")

    assert MARK == start(scene)


def test_open_forward_is_left_alone(scene):
    """No rule, no table, no mark."""
    assert 0 == start(scene)

    assert "" == scene.run("node", "nft", "list", "ruleset")


@EACH
def test_second_time_changes_nothing(scene, program):
    """Restart after restart the same rules stand once; others may have put theirs before."""
    scene.run("node", program, "-P", "FORWARD", "DROP")
    start(scene)
    scene.run("node", program, "-I", "FORWARD", "-j", "LOG")
    before = show(scene, program, "FORWARD"), show(scene, program, CHAIN)

    assert MARK == start(scene)

    assert before == (show(scene, program, "FORWARD"), show(scene, program, CHAIN))


@EACH
def test_what_others_changed_is_put_right(scene, program):
    """Flushed chains, a missing jump, rules of another mark."""
    scene.run("node", program, "-P", "FORWARD", "DROP")
    start(scene)
    scene.run("node", program, "-F")
    scene.run("node", program, "-A", CHAIN, "-m", "mark", "--mark", "1/1", "-j", "ACCEPT")

    start(scene)

    assert RULES == show(scene, program, CHAIN)
    assert f"-A FORWARD -j {CHAIN}" in show(scene, program)


def test_rules_of_a_kube_proxy_are_followed_by_ours(scene):
    """They go with the takeover, and ours stay, although nothing calls for them any more."""
    jump = ["FORWARD", "-m", "comment", "--comment", "kubernetes forwarding rules"]
    scene.run("node", "iptables-nft", "-N", "KUBE-FORWARD")
    scene.run("node", "iptables-nft", "-I", *jump, "-j", "KUBE-FORWARD")
    assert MARK == start(scene)
    scene.run("node", "iptables-nft", "-D", *jump, "-j", "KUBE-FORWARD")

    assert MARK == start(scene)

    assert ["-P FORWARD ACCEPT", f"-A FORWARD -j {CHAIN}"] == show(scene, "iptables-nft")


@EACH
def test_off_takes_them_away(scene, program):
    """Also what an earlier run left; and reports that FORWARD drops."""
    scene.run("node", program, "-P", "FORWARD", "DROP")
    start(scene)

    assert 0 == start(scene, "off")

    assert ["-P FORWARD DROP"] == show(scene, program)
    assert not has_chain(scene, program)


@EACH
def test_cleanup_leaves_nothing(scene, program):
    """Whatever the mode was, and twice in a row."""
    scene.run("node", program, "-P", "FORWARD", "DROP")
    start(scene)

    assert [program] == scene.on_node(remove_forward_accept)
    assert [] == scene.on_node(remove_forward_accept)

    assert ["-P FORWARD DROP"] == show(scene, program)
    assert not has_chain(scene, program)


@pytest.mark.parametrize("hint", ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"])
@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_on_takes_the_backend_of_the_kubelet(scene, backend, hint):
    """Its hint tells which; without one it is nft."""
    scene.run("node", f"iptables-{backend}", "-t", "mangle", "-N", hint)

    assert MARK == start(scene, "on")

    assert backend == scene.on_node(lambda: preferred_backend(builds()))
    assert has_chain(scene, f"iptables-{backend}")
    assert has_chain(scene, f"ip6tables-{backend}")


def test_base_chains_of_others_that_drop_are_told(scene):
    """No rule of ours can overrule them; those of iptables are not meant."""
    scene.run("node", "iptables-nft", "-P", "FORWARD", "DROP")
    scene.run("node", "nft", "add table inet wall")
    for name, hook, policy in (("out", "output", "drop"), ("by", "forward", "accept")):
        chain = f"{{ type filter hook {hook} priority 0; policy {policy}; }}"
        scene.run("node", "nft", f"add chain inet wall {name} {chain}")
    assert [] == scene.on_node(foreign_drops)
    chain = "{ type filter hook forward priority 10; policy drop; }"
    scene.run("node", "nft", f"add chain inet wall through {chain}")

    assert ["inet wall through"] == scene.on_node(foreign_drops)


@pytest.mark.parametrize("family", ["inet", "ip"])
def test_base_chain_that_is_only_named_like_that_of_iptables_is_told(scene, family):
    """In another family; or with an expression that iptables does not know, so it says nothing."""
    scene.run("node", "nft", f"add table {family} filter")
    chain = "{ type filter hook forward priority 0; policy drop; }"
    scene.run("node", "nft", f"add chain {family} filter FORWARD {chain}")
    scene.run("node", "nft", f"add rule {family} filter FORWARD meta mark . ct mark {{ 1 . 1 }}")

    assert 0 == start(scene)

    assert [f"{family} filter FORWARD"] == scene.on_node(foreign_drops)


def run_on_node(scene, main):
    """An event loop in the node's namespace: netlink sockets and programs belong to its thread."""

    async def in_its_thread():
        # Threads that the loop's executor starts stand where their maker stands.
        await main()

    return scene.on_node(partial(asyncio.run, in_its_thread()))


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("program, look_s", [("iptables-nft", 3600.0), ("iptables-legacy", 0.2)])
def test_flushed_rules_come_back_while_it_runs(scene, program, look_s):
    """The kernel tells of changes of nft; legacy is looked at now and then."""
    scene.run("node", program, "-P", "FORWARD", "DROP")

    async def main():
        accept = ForwardAccept("auto", MARK, look_s)
        accept.start()
        task = asyncio.create_task(accept.run())
        try:
            await asyncio.sleep(0.2)
            scene.run("node", program, "-F", "FORWARD")
            await until(lambda: f"-A FORWARD -j {CHAIN}" in show(scene, program))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run_on_node(scene, main)


def test_forward_that_closes_later_gets_its_rules_and_an_error(scene, capsys):
    """The programs do not mark: only a restart lets new connections pass, and the log says so."""
    accept = ForwardAccept("auto", MARK, 30.0)
    assert 0 == scene.on_node(accept.start)
    scene.run("node", "iptables-nft", "-P", "FORWARD", "DROP")

    assert scene.on_node(accept.sync)

    assert RULES == show(scene, "iptables-nft", CHAIN)
    assert "forward_closed_since_start" in capsys.readouterr().out


def test_refusal_is_told_once_and_tried_again(scene, tmp_path, monkeypatch, capsys):
    """A kernel or program that takes no rules, until it does."""
    scene.run("node", "iptables-nft", "-P", "FORWARD", "DROP")
    accept = ForwardAccept("auto", MARK, 30.0)
    path = os.environ["PATH"]
    refusing = tmp_path / "iptables-nft-restore"
    refusing.write_text("#!/bin/sh\necho no such match >&2\nexit 2\n")
    refusing.chmod(0o755)
    (tmp_path / "iptables-nft").symlink_to(shutil.which("iptables-nft"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{path}")

    assert MARK == scene.on_node(accept.start)
    assert scene.on_node(accept.sync)

    assert 1 == capsys.readouterr().out.count("no such match")
    assert not has_chain(scene, "iptables-nft")
    monkeypatch.setenv("PATH", path)
    assert scene.on_node(accept.sync)
    assert has_chain(scene, "iptables-nft")


def test_without_any_iptables_nothing_happens(scene, monkeypatch):
    """An image without the programs: no mark, no failure."""
    monkeypatch.setenv("PATH", "/nonexistent")

    assert 0 == start(scene)
    assert [] == scene.on_node(remove_forward_accept)
