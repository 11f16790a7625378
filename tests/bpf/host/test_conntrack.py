# SPDX-License-Identifier: Apache-2.0
"""Stale UDP entries of the kernel's connection tracking are deleted, and no others [J2-J6].

The entries are made by real traffic through rules of netfilter in the shape of kube-proxy's.
"""

from __future__ import annotations

import socket
from functools import partial

import pytest

from kubeproxy_bpf.host.conntrack import clean
from kubeproxy_bpf.host.ctnetlink import Conntrack, ask_for_module
from kubeproxy_bpf.host.stale import Wanted
from kubeproxy_bpf.model.addresses import parse_address
from kubeproxy_bpf.model.types import Family
from kubeproxy_bpf.sandbox import namespace
from tests.bpf.host.scene import NODE, PODS, PORT, ask

pytestmark = pytest.mark.root

VIP = {4: "10.96.0.10", 6: "fd96::a"}
GONE = {4: "10.96.0.11", 6: "fd96::b"}
NODE_PORT = 30053
BOTH = pytest.mark.parametrize("version", [4, 6])


def rules(version, pod):
    """One Service by cluster IP and node port, another that is deleted since."""
    vip, gone = VIP[version], GONE[version]
    return {
        (vip, "udp", 53): pod,
        (vip, "tcp", 53): pod,
        ("node", "udp", NODE_PORT): pod,
        (gone, "udp", 53): PODS[version]["a"],
    }


def wanted(version, *pods):
    serving = frozenset((parse_address(pod), PORT) for pod in pods)
    return Wanted({(parse_address(VIP[version]), 53): serving}, {NODE_PORT: serving})


def clean_on(scene, version, judge):
    return scene.on_node(partial(clean, Family(version), judge)).deleted


def entries_on(scene, version, port=None):
    def listed():
        with Conntrack() as conntrack:
            return [e for piece in conntrack.udp_entries(Family(version), port) for e in piece]

    return scene.on_node(listed)


@BOTH
def test_flows_to_an_endpoint_that_went_away_lead_to_another(scene, version):
    """By cluster IP and node port, with the client's socket of before; [J2, J5]"""
    a, b = PODS[version].values()
    scene.serve(rules(version, a))
    clients = [scene.client(version), scene.client(version)]
    ways = [(VIP[version], 53), (NODE[version], NODE_PORT)]
    assert [a, a] == [ask(client, *way) for client, way in zip(clients, ways)]
    scene.serve(rules(version, b))
    assert [a, a] == [ask(client, *way) for client, way in zip(clients, ways)]

    assert 2 == clean_on(scene, version, wanted(version, b))

    assert [b, b] == [ask(client, *way) for client, way in zip(clients, ways)]
    assert 0 == clean_on(scene, version, wanted(version, b))


@BOTH
def test_flows_of_the_time_without_endpoints_lead_to_the_first_one(scene, version):
    """They passed untranslated, into nowhere, and would for as long as the client goes on [J5]."""
    b = PODS[version]["b"]
    scene.serve(rules(version, ""))
    # Netfilter decides by rules of NAT when it sees the first datagram, and routes it onward.
    scene.run("node", "ip", "route", "add", VIP[version], "dev", "to-pods")
    client = scene.client(version)
    client.sendto(b"?", (VIP[version], 53))
    scene.serve(rules(version, b))
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        ask(client, VIP[version], 53)

    assert 1 == clean_on(scene, version, wanted(version, b))

    client.settimeout(5)
    assert b == ask(client, VIP[version], 53)


@BOTH
def test_all_others_are_kept(scene, version):
    """Those to endpoints that serve, of deleted Services, straight to pods, and TCP [J4, J6]."""
    a, b = PODS[version].values()
    scene.serve(rules(version, a))
    to_a, deleted, direct = (scene.client(version) for _ in range(3))
    assert a == ask(to_a, VIP[version], 53)
    assert a == ask(deleted, GONE[version], 53)
    assert b == ask(direct, b, PORT)
    stream = scene.client(version, "tcp")
    stream.connect((VIP[version], 53))
    assert a == stream.recv(64).decode()
    before = scene.count()

    assert 0 == clean_on(scene, version, wanted(version, a, b))
    assert 1 == clean_on(scene, version, wanted(version, b))

    assert before - 1 == scene.count()
    stream.sendall(b"still there")
    assert {(parse_address(GONE[version]), 53), (parse_address(b), PORT)} == {
        entry.destination for entry in entries_on(scene, version)
    }


def test_other_family_is_left_alone(scene):
    """The same node port, and an endpoint that serves only in its own family."""
    scene.serve(rules(4, PODS[4]["a"]))
    client = scene.client(4)
    assert PODS[4]["a"] == ask(client, NODE[4], NODE_PORT)

    assert 0 == clean_on(scene, 6, wanted(6, PODS[6]["b"]))

    assert 1 == len(entries_on(scene, 4))


def test_kernel_filters_by_port(scene):
    """Of many flows only those to one port are listed, and none of TCP."""
    a = PODS[4]["a"]
    scene.serve(rules(4, a))
    clients = [scene.client(4) for _ in range(3)]
    ways = [(VIP[4], 53), (NODE[4], NODE_PORT), (a, PORT)]
    for client, way in zip(clients, ways):
        assert a == ask(client, *way)

    assert [(parse_address(VIP[4]), 53)] == [e.destination for e in entries_on(scene, 4, 53)]
    assert 3 == len(entries_on(scene, 4))


def test_more_ports_than_are_asked_for_one_by_one(scene):
    """Then all UDP is listed once, with the same outcome."""
    a, b = PODS[4].values()
    scene.serve(rules(4, a))
    client = scene.client(4)
    assert a == ask(client, VIP[4], 53)
    judge = wanted(4, b)
    more = {number: frozenset([(parse_address(b), PORT)]) for number in range(30100, 30120)}

    assert 1 == clean_on(scene, 4, judge._replace(node_ports=more))


def test_entry_that_went_meanwhile_is_no_error(scene):
    """It timed out, or somebody else deleted it: counted as not deleted by us."""
    a = PODS[4]["a"]
    scene.serve(rules(4, a))
    clients = [scene.client(4), scene.client(4)]
    assert [a, a] == [ask(client, VIP[4], 53) for client in clients]
    first, second = (entry.name for entry in entries_on(scene, 4))

    def delete(*names):
        with Conntrack() as conntrack:
            return conntrack.delete(names)

    assert 1 == scene.on_node(partial(delete, first))
    assert 1 == scene.on_node(partial(delete, first, second))
    assert 0 == scene.on_node(partial(delete, first, second))


def test_younger_entry_of_the_same_addresses_is_spared(scene):
    """What was listed is told from what stands there now."""
    a, b = PODS[4].values()
    scene.serve(rules(4, a))
    client = scene.client(4)
    assert a == ask(client, VIP[4], 53)
    (old,) = entries_on(scene, 4)
    clean_on(scene, 4, wanted(4, b))
    scene.serve(rules(4, b))
    assert b == ask(client, VIP[4], 53)

    def delete():
        with Conntrack() as conntrack:
            return conntrack.delete([old.name])

    assert 0 == scene.on_node(delete)
    assert 1 == len(entries_on(scene, 4))


def test_many_entries_are_deleted_in_pieces(scene):
    """Some thousand flows of one client, a third of which is stale."""
    a, b = PODS[4].values()
    scene.serve(rules(4, a))

    def flood():
        for number in range(3000):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(("0.0.0.0", 20000 + number))
                sock.sendto(b"?", (VIP[4], 53) if number % 3 == 0 else (a, PORT))

    namespace.call(scene.name("client"), flood)
    assert 3000 == scene.count()

    assert 1000 == clean_on(scene, 4, wanted(4, b))

    assert 2000 == scene.count()


@pytest.mark.parametrize("direction", ["", "original "])
def test_entries_in_zones_belong_to_others(scene, direction):
    """Who tracks in a zone of his own, of both directions or one, looks after it himself."""
    b = PODS[4]["b"]
    lines = ["table inet zones {", "chain in { type filter hook prerouting priority -300;"]
    lines += [f"iif to-client ct {direction}zone set 7; }}", "}"]
    scene.run("node", "nft", "-f", "-", text="\n".join(lines))
    client = scene.client(4)
    client.sendto(b"?", (NODE[4], NODE_PORT))
    assert 1 == scene.count()

    assert 0 == clean_on(scene, 4, wanted(4, b))

    assert [] == entries_on(scene, 4)
    assert 1 == scene.count()


def test_asking_for_the_module_is_harmless(scene):
    """Where it is there already nothing happens."""
    scene.on_node(ask_for_module)

    assert 0 == scene.count()
