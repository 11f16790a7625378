# SPDX-License-Identifier: Apache-2.0
"""What a kube-proxy left is found and removed in a real kernel; what is somebody else's stays."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from kubeproxy_bpf.errors import RulesRefused
from kubeproxy_bpf.host.iptables import NFT, Build
from kubeproxy_bpf.model import types
from kubeproxy_bpf.takeover import iptables, ipvs, leftovers
from kubeproxy_bpf.takeover.nftables import TRACKING_TABLE
from kubeproxy_bpf.takeover.ruleset import TRACKING_CHAIN
from tests.e2e.takeover import kube_proxy
from tests.e2e.takeover.conftest import Node

pytestmark = pytest.mark.root

BUILDS = ("nft", "legacy")
PODS = ("10.1.0.0/16", "fd00:10:1::/64")
COUNTERS = re.compile(r" \[\d+:\d+\]$", re.MULTILINE)


IPTABLES = ("filter", "nat", "mangle")
FOREIGN_TABLES = """
table ip kube-proxy-2 {
    chain services {
        type nat hook prerouting priority dstnat
        ip daddr 192.0.2.1 tcp dport 80 dnat to 192.0.2.2:80
    }
}
table inet kube-proxy {
    set kube-proxy { type ipv4_addr; elements = { 192.0.2.1 } }
    chain input {
        type filter hook input priority filter; policy accept
        ip saddr @kube-proxy counter drop
    }
}
table ip6 mine {
    chain KUBE-SERVICES {
        accept
    }
}
"""


class Family(NamedTuple):
    command: str
    ipv6: bool

    @property
    def rules(self) -> str:
        return kube_proxy.iptables(kube_proxy.many(3, self.ipv6), PODS[self.ipv6], self.ipv6)


FAMILIES = (Family("iptables", False), Family("ip6tables", True))


def saved(node: Node) -> dict[str, str]:
    """All rules of iptables, without counters, dates, and what we keep ourselves."""
    found = {}
    for family in FAMILIES:
        for build in BUILDS:
            text = node.run(f"{family.command}-{build}-save")
            lines = COUNTERS.sub("", text).splitlines()
            kept = [each for each in lines if each[:1] != "#" and TRACKING_CHAIN not in each]
            found[f"{family.command}-{build}"] = "\n".join(kept)
    return found


def natively(node: Node) -> list[str]:
    """The tables of others that iptables does not show."""
    names = (("ip", "kube-proxy-2"), ("inet", "kube-proxy"), ("ip6", "mine"))
    return [node.run("nft", "-s", "list", "table", *name) for name in names]


def load(node: Node, build: str, text: str, command: str = "iptables") -> None:
    node.run(f"{command}-{build}-restore", "--noflush", text=text)


def load_all(node: Node) -> None:
    for family in FAMILIES:
        for build in BUILDS:
            load(node, build, family.rules, family.command)
        services = kube_proxy.many(3, family.ipv6)
        node.run(
            "nft", "-f", "-", text=kube_proxy.nftables(services, PODS[family.ipv6], family.ipv6)
        )


def clean(node: Node) -> leftovers.Leftovers:
    """Find and remove; the removal must not fail. Returns what is found afterwards."""
    assert node.call(lambda: leftovers.remove(leftovers.find())) == []
    return node.call(leftovers.find)


def test_all_modes_go_and_others_rules_stay_byte_by_byte(node: Node) -> None:
    """Both families, both builds and nftables at once, between chains whose names begin alike."""
    for family in FAMILIES:
        for build in BUILDS:
            load(node, build, kube_proxy.foreign(family.ipv6), family.command)
    node.run("nft", "-f", "-", text=FOREIGN_TABLES)
    before, tables = saved(node), natively(node)
    load_all(node)
    found = node.call(leftovers.find)
    assert found.counts == {
        "iptables_jumps": 4 * 12,
        "iptables_chains": 4 * (5 + 6 + 1 + 3 * 2 * 4),
        "iptables_rules": found.counts["iptables_rules"],
        "nftables_tables": 2,
    }
    after = clean(node)
    assert (after.counts, after.kept, after.problems) == ({}, [], [])
    assert saved(node) == before
    assert natively(node) == tables
    listed = node.run("nft", "list", "tables").splitlines()
    ours = {f"table {family} {TRACKING_TABLE}" for family in ("ip", "ip6")}
    theirs = {"table ip kube-proxy-2", "table inet kube-proxy", "table ip6 mine"}
    assert {each for each in listed if each.split()[2] not in IPTABLES} == ours | theirs


def test_nothing_is_found_and_nothing_made_on_an_empty_node(node: Node) -> None:
    """To look creates no table, of either build."""
    found = node.call(leftovers.find)
    assert (found.counts, found.kept, found.problems) == ({}, [], [])
    assert node.run("nft", "list", "tables") == ""
    assert node.run("cat", "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names") == ""


@pytest.mark.parametrize("build", BUILDS)
def test_a_chain_that_a_foreign_rule_needs_stays_with_what_it_needs(node: Node, build: str) -> None:
    """A CNI may send packets to KUBE-MARK-MASQ, and only KUBE-POSTROUTING heeds the mark."""
    load(node, build, FAMILIES[0].rules)
    cni = "-A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ"
    load(node, build, f"*nat\n:CNI-HOSTPORT-SETMARK -\n{cni}\nCOMMIT\n")
    after = clean(node)
    assert [each.split(" ", 1)[1] for each in after.kept] == [
        "nat KUBE-MARK-MASQ",
        "nat KUBE-POSTROUTING",
    ]
    rules = saved(node)[f"iptables-{build}"]
    assert cni in rules
    assert "-j KUBE-POSTROUTING" in rules
    assert "KUBE-SERVICES" not in rules


@pytest.mark.parametrize("build", BUILDS)
def test_a_jump_that_kube_proxy_did_not_write_is_foreign(node: Node, build: str) -> None:
    """The same target for some packets only: that is an administrator's rule, and needs it."""
    load(node, build, FAMILIES[0].rules)
    own = "-A FORWARD -s 192.0.2.0/24 -j KUBE-FORWARD"
    load(node, build, f"*filter\n{own}\nCOMMIT\n")
    after = clean(node)
    assert [each.split(" ", 1)[1] for each in after.kept] == ["filter KUBE-FORWARD"]
    assert own in saved(node)[f"iptables-{build}"]


@pytest.mark.parametrize("build", BUILDS)
def test_what_changed_since_the_look_leaves_the_table_whole(node: Node, build: str) -> None:
    """A transaction that does not fit any more changes nothing; the next look makes it fit."""
    load(node, build, FAMILIES[0].rules)
    found = node.call(leftovers.find)
    load(node, build, "*nat\n:mine -\n-A mine -j KUBE-SERVICES\nCOMMIT\n")
    nat = node.run(f"iptables-{build}-save", "-t", "nat").splitlines()[1:-1]
    problems = node.call(lambda: leftovers.remove(found))
    assert [each.split(":")[0] for each in problems] == [f"iptables-{build} nat"]
    assert node.run(f"iptables-{build}-save", "-t", "nat").splitlines()[1:-1] == nat
    assert "nat KUBE-SERVICES" in " ".join(clean(node).kept)


def test_rules_that_only_nft_can_write_stay_in_a_table_of_iptables(node: Node) -> None:
    """iptables shows them as empty, and leaves them where they are."""
    load(node, "nft", FAMILIES[0].rules)
    node.run("nft", "add map ip nat own { type ipv4_addr : verdict; }")
    node.run("nft", "add rule ip nat PREROUTING ip saddr vmap @own")
    assert clean(node).counts == {}
    assert "ip saddr vmap @own" in node.run("nft", "list", "table", "ip", "nat")


def test_iptables_of_ipvs_go_with_its_sets_and_its_device(node: Node) -> None:
    """Sets go after the rules that look into them, and only kube-proxy's."""
    # This kernel may have no dummy devices: the name is what counts.
    node.run("ip", "link", "add", "kube-ipvs0", "type", "bridge")
    node.call(make_sets)
    match = "-m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT"
    load(
        node,
        "nft",
        "*filter\n:KUBE-NODE-PORT -\n:KUBE-IPVS-FILTER -\n-A INPUT -j KUBE-NODE-PORT\n"
        f"-A INPUT -j KUBE-IPVS-FILTER\nCOMMIT\n*nat\n:KUBE-SERVICES -\n-A KUBE-SERVICES {match}\n"
        "-A OUTPUT -j KUBE-SERVICES\nCOMMIT\n",
    )
    found = node.call(leftovers.find)
    assert found.counts == {
        "iptables_jumps": 3,
        "iptables_chains": 3,
        "iptables_rules": 1,
        "ipvs_devices": 1,
        "ipsets": 2,
    }
    assert clean(node).counts == {}
    assert node.call(set_names) == ["KUBE-MINE"]
    assert "kube-ipvs0" not in node.run("ip", "-o", "link")


def test_virtual_servers_go_before_the_device_that_shows_whose_they_are(
    node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the tool both stay, so that the next look finds them; no device, no removal."""
    table, told = tmp_path / "ip_vs", tmp_path / "told"
    table.write_text("IP Virtual Server\nTCP  0A600001:0050 rr\n  -> 0A010001:1F90\nUDP  x rr\n")
    monkeypatch.setattr(ipvs, "_SERVERS", table)
    assert node.call(leftovers.find).counts == {}
    node.run("ip", "link", "add", "kube-ipvs0", "type", "bridge")
    found = node.call(leftovers.find)
    assert found.counts == {"ipvs_servers": 2, "ipvs_devices": 1}
    monkeypatch.setattr(ipvs, "_TOOL", "no-such-tool")
    assert node.call(lambda: leftovers.remove(found)) == [
        "ipvs: virtual servers stay: there is no no-such-tool"
    ]
    assert node.call(leftovers.find).counts == found.counts
    tool = tmp_path / "ipvsadm"
    tool.write_text(f"#!/bin/sh\necho $* >{told}; : >{table}\n")
    tool.chmod(0o755)
    monkeypatch.setattr(ipvs, "_TOOL", str(tool))
    assert clean(node).counts == {}
    assert told.read_text() == "--clear\n"


def make_sets() -> None:
    from pyroute2 import IPSet

    with IPSet() as sets:
        sets.create("KUBE-CLUSTER-IP", stype="hash:ip,port")
        sets.create("KUBE-6-LOOP-BACK", stype="hash:ip,port,ip")
        sets.create("KUBE-MINE", stype="hash:ip")


def set_names() -> list[str]:
    from pyroute2 import IPSet

    with IPSet() as sets:
        return [each.get_attr("IPSET_ATTR_SETNAME") for each in sets.list()]


def test_tools_that_are_missing_are_no_failure(
    node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """An image without iptables or nft looks at what it can."""
    monkeypatch.setenv("PATH", str(tmp_path))
    found = node.call(leftovers.find)
    assert (found.counts, found.problems) == ({}, [])


def test_a_tool_that_fails_is_told_and_the_rest_goes_on(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One backend cannot be read: the others are cleaned all the same."""
    load_all(node)

    def fails(build: Build) -> dict[str, iptables.Removal]:
        if str(build) == "iptables-legacy":
            raise RulesRefused("iptables-legacy-save", "broken")
        return real(build)

    real = iptables.removals
    monkeypatch.setattr(iptables, "removals", fails)
    found = node.call(leftovers.find)
    assert found.problems == ["iptables-legacy: iptables-legacy-save: broken"]
    assert node.call(lambda: leftovers.remove(found)) == []
    monkeypatch.undo()
    left = {str(each) for each, _, _ in node.call(leftovers.find).tables}
    assert left == {"iptables-legacy"}


def test_what_keeps_connections_tracked_can_be_ended(node: Node) -> None:
    """A cleanup leaves neither our chain nor our table, and nothing else changes by it."""
    load_all(node)
    clean(node)
    before = saved(node)
    assert TRACKING_CHAIN in node.run("iptables-nft-save", "-t", "nat")
    assert node.call(leftovers.stop_tracking) == []
    for family in FAMILIES:
        for build in BUILDS:
            assert TRACKING_CHAIN not in node.run(f"{family.command}-{build}-save")
    assert TRACKING_TABLE not in node.run("nft", "list", "tables")
    assert saved(node) == before


def test_a_large_ruleset_goes_at_once(node: Node) -> None:
    """Thousands of chains in one transaction of each table."""
    services = kube_proxy.many(250, False)
    load(node, "nft", kube_proxy.iptables(services, PODS[0], False))
    found = node.call(leftovers.find)
    assert found.counts["iptables_chains"] == 12 + 250 * 2 * 4
    assert clean(node).counts == {}


def test_programs_say_what_is_wrong(node: Node) -> None:
    """The words of the tool are the reason that is told."""
    with pytest.raises(RulesRefused) as caught:
        what = iptables.Removal("*nat\n-X nosuch\nCOMMIT\n", 0, 1, 0, (), False)
        node.call(lambda: iptables.remove(Build(types.Family.IPV4, NFT, "iptables-nft"), what))
    assert "iptables-nft-restore: " in str(caught.value)
