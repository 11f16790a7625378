# SPDX-License-Identifier: Apache-2.0
"""connect(): who answers, what the socket sees, and with which errno it fails."""

from __future__ import annotations

import socket
from collections import Counter

import pytest

from kubeproxy_bpf.plan.records import (
    BackendFlags,
    FrontendFlags,
    FrontendKind,
    RecordFlags,
    VipFlags,
)
from tests.bpf.world import EXTERNAL_IP, TCP, UDP, World

from . import clients
from .clients import error_of
from .places import PORT, Places

pytestmark = pytest.mark.root

VIP, VIP6 = "172.30.0.1", "fd30::1"
B1, B2, B3 = "10.99.1.1", "10.99.1.2", "10.99.1.3"
HAS = RecordFlags.HAS_ENDPOINTS
MSG_FASTOPEN = 0x20000000
TCP_FASTOPEN_CONNECT = 30
IPPROTO_MPTCP = 262


@pytest.mark.parametrize(
    "vip, dialled, backend",
    [(VIP, VIP, B1), (VIP6, VIP6, "fd99::1"), (VIP, f"::ffff:{VIP}", B1)],
)
@pytest.mark.parametrize("place", ["node", "pod"])
def test_tcp_reaches_a_backend(
    places: Places, world: World, vip: str, dialled: str, backend: str, place: str
) -> None:
    """A TCP socket that dials the VIP talks to a backend and sees the VIP as its peer."""
    world.serve(vip, [backend])
    assert places.run(clients.tcp, dialled, netns=getattr(places, place)) == (backend, dialled)
    assert world.count("TRANSLATED") == 1
    assert world.count("OTHER_NETNS") == (place == "pod")


def test_every_backend_of_the_cluster_set_is_chosen(places: Places, world: World) -> None:
    """Choice is spread over the whole window and never leaves it."""
    world.serve(VIP, [B1, B2, B3], cluster=2)
    answers = Counter(places.run(_many, VIP, 60))
    assert set(answers) == {B1, B2}
    assert min(answers.values()) >= 12  # less has a chance of 1 in 10^6


def test_fast_open_and_multipath(places: Places, world: World) -> None:
    """TCP Fast Open in both forms and MPTCP are translated, and show the VIP."""
    world.serve(VIP, [B1])
    for function in (_fast_open_sendto, _fast_open_connect, _multipath):
        assert places.run(function, VIP) == (B1, VIP), function.__name__


def test_another_destination_is_left_alone(places: Places, world: World) -> None:
    """What is no VIP of ours is reached as if we were not there, and nothing is counted."""
    assert places.run(clients.tcp, B1, PORT) == (B1, B1)
    assert world.count("TRANSLATED") == 0


# ---- how it fails ----


@pytest.mark.parametrize("dialled", [VIP, f"::ffff:{VIP}"])
def test_no_endpoints_is_refused(places: Places, world: World, dialled: str) -> None:
    """Without endpoints connect fails at once with ECONNREFUSED, over TCP and UDP."""
    world.serve(VIP, [], flags=RecordFlags(0))
    world.serve(VIP, [], flags=RecordFlags(0), protocol=UDP)
    assert places.run(error_of, clients.tcp, dialled) == "ECONNREFUSED"
    assert places.run(error_of, clients.connect_udp, dialled) == "ECONNREFUSED"
    assert places.run(error_of, clients.sendto, dialled) == "ECONNREFUSED"
    assert world.count("NO_ENDPOINTS") == 3


def test_unknown_ports_of_a_cluster_ip_are_refused(places: Places, world: World) -> None:
    """A cluster IP is ours as a whole: a port that no Service has is refused."""
    world.serve(VIP, [B1])
    assert places.run(error_of, clients.tcp, VIP, 81) == "ECONNREFUSED"
    assert places.run(error_of, clients.connect_udp, VIP, 82) == "ECONNREFUSED"
    assert places.run(error_of, clients.sendto, VIP, 80) == "ECONNREFUSED"
    assert world.count("UNKNOWN_PORT") == 3


@pytest.mark.parametrize("port", [0, 9, 65535, 80])
def test_resolvers_may_ask_for_their_source_address(
    places: Places, world: World, port: int
) -> None:
    """A UDP connect that libc and Go use to sort addresses must not look unreachable."""
    world.serve(VIP, [B1])
    assert places.run(error_of, _route_to, VIP, port, netns=places.pod) == ""
    assert world.count("ADDRESS_PROBE") == 1


def test_unknown_ports_of_an_external_ip_are_left_alone(places: Places, world: World) -> None:
    """Only the Service's own ports of an external address are ours."""
    world.serve(B1, [B2], kind=EXTERNAL_IP)
    assert places.run(clients.tcp, B1) == (B2, B1)
    assert places.run(clients.tcp, B1, PORT) == (B1, B1)


def test_a_service_that_is_not_published_is_refused(places: Places, world: World) -> None:
    """A frontend whose service has no record refuses, and is counted as a half state."""
    index = world.serve(VIP, [B1])
    world.unpublish(index)
    assert places.run(error_of, clients.tcp, VIP) == "ECONNREFUSED"
    assert world.count("HALF_STATE") == 1


def test_a_backend_that_is_not_live_is_refused(places: Places, world: World) -> None:
    """A slot that names a freed backend refuses rather than sends to another's address."""
    world.serve(VIP, [B1])
    world.remove_backend(B1)
    assert places.run(error_of, clients.tcp, VIP) == "ECONNREFUSED"
    assert world.count("HALF_STATE") == 1


# ---- policies ----


def test_internal_local_policy(places: Places, world: World) -> None:
    """internalTrafficPolicy Local: host and pods see the local window alone."""
    world.serve(VIP, [B1, B2], cluster=1, local=(1, 1), flags=HAS | RecordFlags.INTERNAL_LOCAL)
    for netns in (places.node, places.pod):
        assert places.run(clients.tcp, VIP, netns=netns)[0] == B2


def test_local_policy_without_local_endpoint_is_unreachable(places: Places, world: World) -> None:
    """Endpoints elsewhere only: EHOSTUNREACH; nowhere at all: ECONNREFUSED."""
    flags = HAS | RecordFlags.INTERNAL_LOCAL
    world.serve(VIP, [B1], flags=flags)
    assert places.run(error_of, clients.tcp, VIP) == "EHOSTUNREACH"
    world.serve(VIP, [], flags=RecordFlags.INTERNAL_LOCAL)
    assert places.run(error_of, clients.tcp, VIP) == "ECONNREFUSED"
    assert (world.count("NO_LOCAL_ENDPOINT"), world.count("NO_ENDPOINTS")) == (1, 1)


def test_external_local_policy(places: Places, world: World) -> None:
    """externalTrafficPolicy Local: the host takes any endpoint, a pod only a local one."""
    flags = HAS | RecordFlags.EXTERNAL_LOCAL
    world.serve(VIP, [B1, B2], cluster=1, local=(1, 1), flags=flags, kind=EXTERNAL_IP)
    assert places.run(clients.tcp, VIP)[0] == B1
    assert places.run(clients.tcp, VIP, netns=places.pod)[0] == B2


def test_internal_scope_ignores_the_external_policy(places: Places, world: World) -> None:
    """A cluster IP of the same Service is governed by the internal policy."""
    flags = HAS | RecordFlags.EXTERNAL_LOCAL
    world.serve(VIP, [B1, B2], cluster=1, local=(1, 1), flags=flags)
    assert places.run(clients.tcp, VIP, netns=places.pod)[0] == B1


def test_source_ranges_are_left_to_the_packet_path(places: Places, world: World) -> None:
    """A frontend with source ranges is not translated here."""
    flags, kind, external = EXTERNAL_IP
    ranges = (flags, kind, external | FrontendFlags.SOURCE_RANGES)
    world.serve(B1, [B2], port=PORT, kind=ranges)
    assert places.run(clients.tcp, B1, PORT) == (B1, B1)
    assert world.count("SOURCE_RANGES") == 1


def test_cluster_ip_on_a_local_device_is_left_alone(places: Places, world: World) -> None:
    """NodeLocal DNSCache binds the cluster IP: it must be reached, not the endpoints."""
    kind = (VipFlags.CLUSTER_IP | VipFlags.ON_DEVICE, FrontendKind.CLUSTER_IP, 0)
    world.serve(B1, [B2], port=PORT, kind=kind)
    assert places.run(clients.tcp, B1, PORT) == (B1, B1)
    assert world.count("ON_DEVICE") == 1


def test_a_lingering_address_is_left_alone(places: Places, world: World) -> None:
    """What was a cluster IP is ours no longer: neither translated nor refused, on any port."""
    world.serve(B1, [B2], port=PORT)
    world.serve(B1, [B2], port=PORT, protocol=UDP)
    assert places.run(clients.tcp, B1, PORT) == (B2, B1)
    world.vip(B1, VipFlags.LINGER)
    for protocol in (TCP, UDP):
        world.remove_frontend(B1, PORT, protocol)
    assert places.run(clients.tcp, B1, PORT) == (B1, B1)
    assert places.run(clients.udp, B1, PORT) == (B1, B1, B1)
    assert places.run(clients.sendto, B1, PORT) == (B1, (B1, PORT))
    assert places.run(clients.connect_udp, B1, 81) == B1
    assert (world.count("TRANSLATED"), world.count("UNKNOWN_PORT")) == (1, 0)


def test_loopback_source_reaches_host_backends_only(places: Places, world: World) -> None:
    """A socket bound to 127/8 goes to a backend of the host, or is left alone."""
    index = world.serve(VIP, [B1, B2, B3])
    assert places.run(error_of, clients.tcp, VIP, 80, "127.0.0.5") != ""
    assert world.count("LOOPBACK_SOURCE") == 1
    world.publish(index, [world.backend(B1), world.backend(B2, BackendFlags.HOST)])
    for _ in range(4):
        assert places.run(clients.tcp, VIP, 80, "127.0.0.5") == (B2, VIP)


# ---- what was dialled ----


def test_dialling_again_shows_the_new_destination(places: Places, world: World) -> None:
    """After a failure through the VIP, the same socket dials a pod and sees the pod."""
    index = world.index()
    world.publish(index, [world.backend(B1, port=PORT + 1)])
    world.frontend(VIP, 80, TCP, index, FrontendKind.CLUSTER_IP)
    world.vip(VIP, VipFlags.CLUSTER_IP)
    assert places.run(_fails_then_dials, VIP, B1) == B1


def test_closed_sockets_leave_nothing(places: Places, world: World) -> None:
    """10,000 sockets of all kinds, opened and closed, leave empty maps."""
    world.serve(VIP, [B1])
    world.serve(VIP, [B1], protocol=UDP)
    world.serve(VIP, [B1], port=81, protocol=UDP)
    for number in range(2, 9):
        world.serve(f"172.30.0.{number}", [f"10.99.1.{number}"], protocol=UDP)
    places.run(_open_and_close, VIP)
    assert world.count("TRANSLATED") >= 10_000
    assert world.count("FLOW_OVERFLOW") > 0
    assert world.entries("kpb_tcp_origin") == 0
    assert world.entries("kpb_sock_flows") == 0
    assert world.count("ORIGIN_FULL") == 0


def _many(vip: str, times: int) -> list[str]:
    return [clients.tcp(vip)[0] for _ in range(times)]


def _answer(client: socket.socket) -> tuple[str, str]:
    return client.recv(100).decode(), client.getpeername()[0]


def _fast_open_sendto(vip: str) -> tuple[str, str]:
    with clients.opened(vip, socket.SOCK_STREAM) as client:
        client.settimeout(None)
        client.sendto(b"?", MSG_FASTOPEN, (vip, 80))
        return _answer(client)


def _fast_open_connect(vip: str) -> tuple[str, str]:
    with clients.opened(vip, socket.SOCK_STREAM) as client:
        client.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        client.connect((vip, 80))
        client.send(b"?")
        return _answer(client)


def _multipath(vip: str) -> tuple[str, str]:
    with clients.opened(vip, socket.SOCK_STREAM, IPPROTO_MPTCP) as client:
        client.connect((vip, 80))
        return _answer(client)


def _route_to(vip: str, port: int) -> str:
    with clients.opened(vip, socket.SOCK_DGRAM) as client:
        client.connect((vip, port))
        return str(client.getsockname()[0])


def _fails_then_dials(vip: str, backend: str) -> str:
    with clients.opened(vip, socket.SOCK_STREAM) as client:
        client.settimeout(None)
        assert error_of(client.connect, (vip, 80)) == "ECONNREFUSED"
        client.connect((backend, PORT))
        return str(client.getpeername()[0])


def _open_and_close(vip: str) -> None:
    for number in range(8000):
        with clients.opened(vip, socket.SOCK_DGRAM) as client:
            client.connect((vip, 80 + number % 2))
    for _ in range(1000):
        clients.tcp(vip)
    for _ in range(500):
        _multipath(vip)
    for _ in range(100):
        with clients.opened(vip, socket.SOCK_DGRAM) as client:
            for last in range(1, 9):
                client.sendto(b"?", (f"172.30.0.{last}", 80))
