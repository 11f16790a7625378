# SPDX-License-Identifier: Apache-2.0
"""Connections, packets and bytes of single Services: real connections, read over HTTP."""

from __future__ import annotations

import os
from collections import Counter
from typing import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kubeproxy_bpf.sandbox.cluster import Options, Sandbox
from tests.e2e.endpoints.asking import ask
from tests.e2e.flows.conftest import PORT, TCP, UDP, Cluster, wait
from tests.e2e.flows.ways import Seen, Way, exchange

pytestmark = pytest.mark.root

METRICS_PORT = 10249
NAME = "kubeproxy_bpf_service_"
UDP_UNCONNECTED = Way("UDP", connected=False)


@pytest.fixture(scope="module")
def whole_sandbox() -> Iterator[Sandbox]:
    """A sandbox whose proxies count."""
    options = Options(
        api_flags=("--admin", "--no-validation"), proxy_flags=("--bpf-service-traffic",)
    )
    with Sandbox.up(f"kpbt-traffic-{os.getpid()}", "routed", options) as sandbox:
        yield sandbox


def counts(cluster: Cluster, node: str, service: str, **labels: str) -> Counter[str]:
    """What a node counted for the ports of a Service, without zeros, by short names."""
    answer = ask(cluster.sandbox, node, "127.0.0.1", METRICS_PORT, "/metrics")
    wanted = {"service": service, **labels}.items()
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(answer.body):
        for sample in family.samples:
            if sample.name.startswith(NAME) and wanted <= sample.labels.items():
                found[sample.name.removeprefix(NAME).removesuffix("_total")] += int(sample.value)
    return +found


@pytest.mark.parametrize("place", ["shell-1", "node1"])
def test_connections_of_sockets(cluster: Cluster, place: str) -> None:
    """Each counts once, on the node of the client, for its port and family; there is no packet."""
    name = f"sockets-{place}"
    vips = cluster.service(name, ["web-1", "web-2"])
    for vip in vips:
        for way in (TCP, TCP, TCP, UDP, UDP_UNCONNECTED):
            assert cluster.dial(place, way, vip).peer == (vip, PORT)

    for family in ("IPv4", "IPv6"):
        for protocol, connections in (("TCP", 3), ("UDP", 2)):
            found = counts(cluster, "node1", name, protocol=protocol, family=family)
            assert found == {"connections": connections}
    assert not counts(cluster, "node2", name)


@pytest.mark.parametrize("pods", [["web-1"], ["web-2"]], ids=["local", "remote"])
def test_packets_from_outside(cluster: Cluster, pods: list[str]) -> None:
    """Of a node port both directions are counted on the node that was asked, each packet once."""
    name = f"outside-{pods[0]}"
    cluster.service(name, pods, type="NodePort")
    for address in cluster.layout.addresses("node1"):
        for way in (TCP, UDP, UDP):
            seen = cluster.dial("client", way, address, cluster.node_port)
            assert seen == Seen(pods[0], (address, cluster.node_port))

    for family, header in (("IPv4", 20), ("IPv6", 40)):
        found = counts(cluster, "node1", name, protocol="UDP", family=family)
        request, answer = len(b"name\n"), len(pods[0])
        size = 2 * (2 * (header + 8) + request + answer)
        assert found == {"flows": 2, "connections": 2, "packets": 4, "bytes": size}
        wait(
            lambda: counts(cluster, "node1", name, family=family, protocol="TCP")["packets"] > 7,
            True,
        )
        found = counts(cluster, "node1", name, protocol="TCP", family=family)
        assert (1, 1) == (found["flows"], found["connections"])
        assert found["packets"] * (header + 20) < found["bytes"] < found["packets"] * 100


def test_a_new_service_inherits_nothing(cluster: Cluster) -> None:
    """It gets the index of one that is gone, whose counts nobody had asked for."""
    old, _ = cluster.service("old", ["web-1"])
    for _ in range(5):
        assert cluster.dial("shell-1", TCP, old).answer == "web-1"
    cluster.remove(cluster.manifest("old"))
    cluster.settle()
    for number in range(4):
        new, _ = cluster.service(f"new-{number}", ["web-1"])
        assert cluster.dial("shell-1", TCP, new).answer == "web-1"

    for number in range(4):
        assert counts(cluster, "node1", f"new-{number}") == {"connections": 1}
    assert not counts(cluster, "node1", "old")


def end_proxy(cluster: Cluster) -> None:
    old = cluster.sandbox._started.pop("kube-proxy-node1")
    old.terminate()
    old.wait(timeout=30)


def start_proxy(cluster: Cluster, *flags: str) -> None:
    cluster.sandbox.start_proxy("node1", flags=flags)
    cluster.sandbox.wait_ready()
    cluster.settle()


def test_counts_outlive_the_process(cluster: Cluster) -> None:
    """A restarted proxy shows what was counted before, and what was while it was away."""
    vip, _ = cluster.service("lasting", ["web-1"])
    for number in (1, 2, 3):
        assert cluster.dial("shell-1", TCP, vip).answer == "web-1"
        if number == 1:
            end_proxy(cluster)
        if number == 2:
            start_proxy(cluster, "--bpf-service-traffic")

    assert counts(cluster, "node1", "lasting") == {"connections": 3}


def test_it_can_be_switched_off_and_on(cluster: Cluster) -> None:
    """The flag changes the size of a map: a connection goes on, counts begin anew."""
    vip, _ = cluster.service("switched", ["web-1"], type="NodePort")
    address = cluster.layout.addresses("node1").v4
    held = cluster.open("client", TCP, address)
    assert exchange(held, TCP, address, cluster.node_port).answer == "web-1"
    for flag in ("--bpf-service-traffic=false", "--bpf-service-traffic"):
        end_proxy(cluster)
        start_proxy(cluster, flag)
        assert cluster.dial("shell-1", TCP, vip).answer == "web-1"
        held.sendall(b"name\n")
        assert held.recv(4096).decode().strip() == "web-1"
        if flag.endswith("=false"):
            assert not counts(cluster, "node1", "switched").keys() - {"flows"}

    found = counts(cluster, "node1", "switched", protocol="TCP")
    assert found["flows"] == 1
    assert found["connections"] == 2
    assert 1 < found["packets"] < 50
