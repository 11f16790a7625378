# SPDX-License-Identifier: Apache-2.0
"""Services, node ports and host ports in a whole sandbox: API server, two proxies, real sockets."""

from __future__ import annotations

import errno
import socket
import time

import pytest

from tests.e2e.flows.conftest import PORT, TCP, UDP, Cluster
from tests.e2e.flows.places import applied, responder
from tests.e2e.flows.ways import Seen, ways_of

pytestmark = pytest.mark.root

ALL = {"web-1", "web-2", "web-3", "web-4"}
ON_NODE1, ON_NODE2 = {"web-1", "web-3"}, {"web-2", "web-4"}
REFUSED, UNREACHABLE = {"ECONNREFUSED"}, {"EHOSTUNREACH"}
NAMED = "203.0.113.77"
ROUTE_LOCALNET = "/proc/sys/net/ipv4/conf/*/route_localnet"


@pytest.mark.parametrize("place", ["shell-1", "shell-2", "node1", "node2"])
def test_vip_seems_to_be_the_peer_in_every_way(cluster: Cluster, place: str) -> None:
    """From pods and hosts of both nodes, answers seem to come from the VIP that was dialled."""
    vips = cluster.service("web", ["web-2"])
    for vip in vips:
        for protocol in ("TCP", "UDP"):
            for way in ways_of(protocol, vip):
                assert cluster.dial(place, way, vip) == Seen("web-2", (vip, PORT)), way


def test_node_port_is_served_on_the_own_node(cluster: Cluster) -> None:
    """The host reaches a node port at its addresses and at loopback, a pod at the addresses."""
    cluster.service("web", ALL, type="NodePort")
    for address in (*cluster.layout.addresses("node1"), "127.0.0.1", "::1"):
        for way in (TCP, UDP):
            assert cluster.answers("node1", way, address, cluster.node_port) == ALL, (way, address)
    for address in cluster.layout.addresses("node1"):
        for way in (TCP, UDP):
            assert cluster.answers("shell-1", way, address, cluster.node_port) == ALL, (
                way,
                address,
            )


def test_node_ports_at_loopback_need_no_route_localnet(cluster: Cluster) -> None:
    """They are translated at the socket: packets to 127.0.0.0/8 stay martian on each device."""
    cluster.service("web", ALL, type="NodePort")
    assert cluster.answers("node1", TCP, "127.0.0.1", cluster.node_port) == ALL

    shown = cluster.sandbox.exec("node1", ["sh", "-c", f"cat {ROUTE_LOCALNET}"]).stdout.split()

    assert shown and set(shown) == {"0"}


def test_loopback_of_a_pod_has_no_node_ports(cluster: Cluster) -> None:
    """A pod that dials its own loopback meets its own loopback."""
    cluster.service("web", ALL, type="NodePort")
    with responder(cluster.sandbox, "shell-1", [f"TCP:{cluster.node_port}"]):
        for address, answer in (
            ("127.0.0.1", f"127.0.0.1:{cluster.node_port}"),
            ("::1", f"::1 {cluster.node_port}"),
        ):
            assert cluster.answers("shell-1", TCP, address, cluster.node_port) == {answer}


@pytest.mark.parametrize("place", ["shell-1", "node1"])
def test_node_port_of_another_node_goes_to_that_node(cluster: Cluster, place: str) -> None:
    """Node ports at another node's address are left to that node, which serves them by packet."""
    cluster.service("web", ALL, type="NodePort")
    other = cluster.layout.addresses("node2").v4
    assert cluster.answers("node2", TCP, other, cluster.node_port) == ALL
    assert cluster.answers(place, TCP, other, cluster.node_port) == ALL


def _pod(name: str, like: str, cluster: Cluster, port: dict[str, object]) -> dict[str, object]:
    """A Pod of node1 with a host port, whose addresses are those of a backend."""
    addresses = cluster.layout.addresses(like)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "host-port"}},
        "spec": {
            "nodeName": "node1",
            "containers": [{"name": "c", "ports": [{"containerPort": 8080, **port}]}],
        },
        "status": {"phase": "Running", "podIPs": [{"ip": address} for address in addresses]},
    }


def test_host_port_leads_to_its_pod(cluster: Cluster) -> None:
    """A host port is served on all of the node's addresses, until its Pod goes."""
    pod = _pod("any", "web-1", cluster, {"hostPort": 9090})
    cluster.put(pod)
    cluster.until({"web-1"}, "node1", TCP, "127.0.0.1", 9090)
    for address in cluster.layout.addresses("node1"):
        for place in ("node1", "shell-1"):
            seen = cluster.dial(place, TCP, address, 9090)
            assert seen == Seen("web-1", (address, 9090)), (place, address)
    assert cluster.answers("node1", UDP, "127.0.0.1", 9090) == REFUSED
    assert cluster.answers("shell-1", TCP, "127.0.0.1", 9090) == REFUSED
    cluster.remove(pod)
    cluster.until(REFUSED, "node1", TCP, "127.0.0.1", 9090)


def test_host_ip_confines_a_host_port(cluster: Cluster) -> None:
    """A host port with an address of its own is served there and nowhere else."""
    address, address6 = cluster.layout.addresses("node1")
    cluster.put(_pod("at", "web-3", cluster, {"hostPort": 9091, "hostIP": address}))
    cluster.put(_pod("lo", "web-1", cluster, {"hostPort": 9091, "hostIP": "127.0.0.1"}))
    cluster.until({"web-3"}, "node1", TCP, address, 9091)
    cluster.until({"web-1"}, "node1", TCP, "127.0.0.1", 9091)
    assert cluster.answers("shell-1", TCP, address, 9091) == {"web-3"}
    assert cluster.answers("node1", TCP, address6, 9091) == REFUSED


def test_affinity_holds_across_sockets(cluster: Cluster) -> None:
    """All sockets of one client meet one backend; protocols are ports of their own."""
    vips = cluster.service("web", ALL, sessionAffinity="ClientIP")
    for place in ("shell-1", "node1", "shell-2"):
        for way in (TCP, UDP):
            assert len(cluster.answers(place, way, vips[0])) == 1, (place, way)


def test_affinity_ends_with_its_time_out(cluster: Cluster) -> None:
    """A client that was idle for longer than the time-out is given any backend again."""
    short = {"clientIP": {"timeoutSeconds": 1}}
    vips = cluster.service("web", ALL, sessionAffinity="ClientIP", sessionAffinityConfig=short)
    first = cluster.dial("shell-1", TCP, vips[0]).answer
    for _ in range(20):  # 4 backends: staying each time has a chance of 10^-12
        time.sleep(2.1)  # whole seconds are counted: a pin may live a second longer
        if cluster.dial("shell-1", TCP, vips[0]).answer != first:
            return
    pytest.fail("the client never got another backend")


def test_local_policy_serves_local_endpoints_only(cluster: Cluster) -> None:
    """With internalTrafficPolicy Local a node without endpoints answers EHOSTUNREACH at once."""
    vips = cluster.service("web", ON_NODE2, internalTrafficPolicy="Local")
    assert cluster.answers("shell-2", TCP, vips[0]) == ON_NODE2
    for place in ("shell-1", "node1"):
        for vip in vips:
            for way in (*ways_of("TCP", vip), *ways_of("UDP", vip)):
                assert cluster.answers(place, way, vip) == UNREACHABLE, (place, way)
    cluster.endpoints("web", ALL)
    assert cluster.answers("shell-1", TCP, vips[0]) == ON_NODE1


def test_refused_where_nobody_can_answer(cluster: Cluster) -> None:
    """A Service without endpoints, and a port that it does not have, refuse in every way."""
    vips = cluster.service("empty", ())
    for vip in vips:
        for way in (*ways_of("TCP", vip), *ways_of("UDP", vip)):
            for place in ("shell-1", "node1"):
                for port in (PORT, 81):
                    assert cluster.answers(place, way, vip, port) == REFUSED, (place, way, port)
    cluster.endpoints("empty", ON_NODE2)
    assert cluster.answers("shell-1", TCP, vips[0]) == ON_NODE2


def test_cluster_ip_on_a_device_is_left_alone(cluster: Cluster) -> None:
    """While a device of the node carries a cluster IP, sockets go to whoever listens there."""
    vips = cluster.service("web", ON_NODE2)
    vip = vips[0]
    with responder(cluster.sandbox, "node1", [f"TCP:{PORT}", f"UDP:{PORT}"]):
        with applied(cluster.sandbox, "node1", f"addr {{}} {vip}/32 dev lo"):
            for place in ("shell-1", "node1"):
                for way in (TCP, UDP):
                    cluster.until({f"{vip}:{PORT}"}, place, way, vip)
            assert cluster.answers("shell-2", TCP, vip) == ON_NODE2
        cluster.until(ON_NODE2, "shell-1", TCP, vip)
        cluster.until(ON_NODE2, "node1", UDP, vip)


def _bind(cluster: Cluster, place: str, kind: socket.SocketKind, port: int) -> int:
    """The errno of a bind; 0 when it is allowed."""

    def bind() -> int:
        with socket.socket(socket.AF_INET, kind) as sock:
            return _errno_of_bind(sock, port)

    return cluster.sandbox.run_in(place, bind)


def _errno_of_bind(sock: socket.socket, port: int) -> int:
    try:
        sock.bind(("0.0.0.0", port))
    except OSError as error:
        return error.errno or -1
    return 0


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["TCP", "UDP"])
def test_node_ports_are_kept_from_programs_of_the_host(
    cluster: Cluster, kind: socket.SocketKind
) -> None:
    """A node port cannot be bound on the host while a Service owns it; a pod may bind it."""
    cluster.service("web", ALL, type="NodePort")
    assert _bind(cluster, "node1", kind, cluster.node_port) == errno.EADDRINUSE
    assert _bind(cluster, "shell-1", kind, cluster.node_port) == 0
    assert _bind(cluster, "node1", kind, cluster.node_port + 1000) == 0
    cluster.remove(cluster.manifest("web"))
    cluster.settle()
    assert _bind(cluster, "node1", kind, cluster.node_port) == 0


def _ranged(cluster: Cluster) -> tuple[str, str]:
    return cluster.service(
        "web",
        ON_NODE2,
        {"loadBalancer": {"ingress": [{"ip": NAMED}]}},
        type="LoadBalancer",
        loadBalancerSourceRanges=["192.0.2.0/24"],
    )


@pytest.mark.parametrize("place", ["shell-1", "node1"])
def test_vip_with_source_ranges_is_served_by_packet(cluster: Cluster, place: str) -> None:
    """Sockets leave a load balancer's VIP with ranges alone; a source inside them is served."""
    vips = _ranged(cluster)
    assert cluster.answers(place, TCP, vips[0]) == ON_NODE2
    everybody = ["0.0.0.0/1", "128.0.0.0/1"]
    cluster.put(cluster.manifest("web", type="LoadBalancer", loadBalancerSourceRanges=everybody))
    cluster.settle()
    assert cluster.answers(place, TCP, NAMED) == ON_NODE2
    cluster.put(cluster.manifest("web", type="LoadBalancer", loadBalancerSourceRanges=None))
    cluster.settle()
    assert cluster.answers(place, TCP, NAMED) == ON_NODE2
