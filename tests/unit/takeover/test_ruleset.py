# SPDX-License-Identifier: Apache-2.0
"""From what iptables-save writes to what iptables-restore takes."""

from __future__ import annotations

from kubeproxy_bpf.takeover.ruleset import TRACKING_CHAIN, Removal, parse, removal, tracking_removal

SVC, SEP = "KUBE-SVC-ERIFXISQEP7F7OF4", "KUBE-SEP-AAAABBBBCCCCDDDD"


def table(name: str, *rules: str, policy: str = "ACCEPT") -> str:
    """Text of iptables-save; the chains are those of the rules."""
    built_in = {"INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"}
    chains = {rule.split()[1] for rule in rules}
    chains |= {rule.split()[-1] for rule in rules if rule.split()[-1].startswith(("KUBE", "CNI"))}
    lines = [f":{each} {policy if each in built_in else '-'} [3:180]" for each in sorted(chains)]
    return "\n".join(("# Generated", f"*{name}", *lines, *rules, "COMMIT", "# Completed", ""))


def removed(text: str) -> Removal:
    (only,) = parse(text.splitlines(keepends=True))
    return removal(only)


def commands(what: Removal) -> list[str]:
    lines = what.text.splitlines()
    return [each for each in lines if TRACKING_CHAIN not in each]


def test_jumps_go_before_chains_and_chains_are_emptied_first():
    """A chain goes only when nothing leads to it, and all of it is one transaction."""
    portals = '-m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
    what = removed(
        table(
            "nat",
            f"-A PREROUTING {portals}",
            f"-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -j {SVC}",
            f"-A {SVC} -j {SEP}",
            "-A PREROUTING -j CNI-HOSTPORT-DNAT",
        )
    )
    assert commands(what) == [
        "*nat",
        f"-D PREROUTING {portals}",
        f":{SEP} - [0:0]",
        ":KUBE-SERVICES - [0:0]",
        f":{SVC} - [0:0]",
        f"-X {SEP}",
        "-X KUBE-SERVICES",
        f"-X {SVC}",
        "COMMIT",
    ]
    assert (what.jumps, what.chains, what.rules, what.kept) == (1, 3, 2, ())


def test_nothing_to_do_is_no_text():
    """A table without kube-proxy is not written at all."""
    what = removed(table("filter", "-A INPUT -j KUBE-FIREWALL", "-A FORWARD -j CNI-FORWARD"))
    assert what == Removal("", 0, 0, 0, (), False)


def test_what_a_comment_says_is_no_jump():
    """Quoted words may look like anything."""
    text = '-A INPUT -m comment --comment "see \\"x\\" -j KUBE-FORWARD" -j ACCEPT'
    assert removed(table("filter", text)).text == ""


def test_every_jump_goes_however_often_it_stands_there():
    """Two processes may have written it twice."""
    what = removed(table("filter", *["-A FORWARD -j KUBE-FORWARD"] * 2))
    assert what.text.count("-D FORWARD -j KUBE-FORWARD") == 2


def test_a_chain_with_a_foreign_reference_stays_with_all_that_it_leads_to():
    """Not only the chain itself: what it leads to, in turn, and who heeds its mark."""
    what = removed(
        table(
            "nat",
            "-A POSTROUTING -j KUBE-POSTROUTING",
            f"-A CNI-DN-1 -j {SVC}",
            f"-A {SVC} -j {SEP}",
            f"-A {SEP} -j KUBE-MARK-MASQ",
            "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
            "-A OUTPUT -j KUBE-SERVICES",
            "-A KUBE-POSTROUTING -j KUBE-SERVICES-MINE",
        )
    )
    assert what.kept == ("KUBE-MARK-MASQ", "KUBE-POSTROUTING", SEP, SVC)
    assert commands(what) == [
        "*nat",
        "-D OUTPUT -j KUBE-SERVICES",
        ":KUBE-SERVICES - [0:0]",
        "-X KUBE-SERVICES",
        "COMMIT",
    ]


def test_a_rule_that_iptables_cannot_express_is_somebody_elses():
    """Written by nft into a table of iptables: its text is empty, or begins with a remark."""
    text = table("nat", "-A OUTPUT -j KUBE-SERVICES", "-A PREROUTING", "-A people")
    assert commands(removed(text))[1] == "-D OUTPUT -j KUBE-SERVICES"


def test_goto_is_a_reference_too():
    """iptables has two ways into a chain."""
    assert removed(table("filter", "-A people -g KUBE-FORWARD")).kept == ("KUBE-FORWARD",)


def test_connections_stay_tracked_from_the_same_moment():
    """The nat table gets the chain that asks about connections; once."""
    text = table("nat", "-A OUTPUT -j KUBE-SERVICES")
    assert f"-A {TRACKING_CHAIN} " in removed(text).text
    again = text.replace("*nat\n", f"*nat\n:{TRACKING_CHAIN} - [0:0]\n")
    assert TRACKING_CHAIN not in removed(again).text
    assert TRACKING_CHAIN not in removed(text.replace("*nat", "*filter")).text


def test_the_tracking_chain_goes_with_its_rule():
    """Only where it is."""
    (found,) = parse(["*nat\n", f":{TRACKING_CHAIN} - [0:0]\n", "COMMIT\n"])
    assert tracking_removal(found).splitlines()[1:3] == [
        f":{TRACKING_CHAIN} - [0:0]",
        f"-X {TRACKING_CHAIN}",
    ]
    (other,) = parse(["*nat\n", "COMMIT\n"])
    assert tracking_removal(other) == ""


def test_a_closed_forward_is_exposed_unless_somebody_accepts_instead():
    """KUBE-FORWARD may be all that lets traffic pass a policy of DROP."""
    jump = "-A FORWARD -j KUBE-FORWARD"
    ours = "-A FORWARD -j KUBE-PROXY-BPF-FORWARD"
    assert removed(table("filter", jump, policy="DROP")).exposed
    last = '-A FORWARD -m comment --comment "no more" -j REJECT --reject-with icmp-port-unreachable'
    assert removed(table("filter", jump, last)).exposed
    assert not removed(table("filter", jump, "-A FORWARD -s 192.0.2.1/32 -j DROP")).exposed
    assert not removed(table("filter", jump)).exposed
    assert not removed(table("filter", ours, jump, policy="DROP")).exposed
    assert not removed(table("filter", "-A FORWARD -j KUBE-SERVICES", policy="DROP")).exposed


def test_all_tables_of_a_file_are_read():
    """iptables-save writes one after the other."""
    text = table("mangle", "-A x -j y") + table("nat", "-A OUTPUT -j KUBE-SERVICES")
    assert [each.name for each in parse(text.splitlines())] == ["mangle", "nat"]
