# SPDX-License-Identifier: Apache-2.0
"""What the other settings change: pods' shortcut to external addresses, no origin."""

from __future__ import annotations

import socket

import pytest

from kubeproxy_bpf.dataplane.settings import ConfigFlags
from kubeproxy_bpf.plan.records import RecordFlags
from tests.bpf.world import EXTERNAL_IP, UDP, World

from . import clients
from .places import Places

pytestmark = pytest.mark.root

SO_COOKIE = 57
LOCAL_ONLY = RecordFlags.HAS_ENDPOINTS | RecordFlags.EXTERNAL_LOCAL


@pytest.fixture(scope="module")
def config_flags() -> int:
    return ConfigFlags.POD_SHORTCUT_IPV4


def test_pods_take_the_shortcut_in_its_family(places: Places, world: World) -> None:
    """With a detector for IPv4 a pod reaches all endpoints there, and local ones over IPv6."""
    for vip, backends in (
        ("172.30.0.1", ["10.99.1.1", "10.99.1.2"]),
        ("fd30::1", ["fd99::1", "fd99::2"]),
    ):
        world.serve(vip, backends, cluster=1, local=(1, 1), flags=LOCAL_ONLY, kind=EXTERNAL_IP)
    assert places.run(clients.tcp, "172.30.0.1", netns=places.pod)[0] == "10.99.1.1"
    assert places.run(clients.tcp, "::ffff:172.30.0.1", netns=places.pod)[0] == "10.99.1.1"
    assert places.run(clients.tcp, "fd30::1", netns=places.pod)[0] == "fd99::2"


def test_without_origin_a_tcp_socket_sees_the_backend(places: Places, world: World) -> None:
    """Switched off, nothing is remembered of TCP; UDP is not concerned."""
    world.serve("172.30.0.1", ["10.99.1.1"])
    world.serve("172.30.0.1", ["10.99.1.1"], protocol=UDP)
    assert places.run(clients.tcp, "172.30.0.1") == ("10.99.1.1", "10.99.1.1")
    assert places.run(clients.udp, "172.30.0.1")[2] == "172.30.0.1"


def test_without_origin_old_entries_still_go(places: Places, world: World) -> None:
    """What a socket left while the switch was on is removed when it closes."""
    origins = world.maps["kpb_tcp_origin"]

    def scenario() -> int:
        with clients.opened("127.0.0.1", socket.SOCK_STREAM) as client:
            cookie = client.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)
            origins.update(cookie, bytes(origins.value_bytes))
            return world.entries("kpb_tcp_origin")

    assert places.run(scenario) == 1
    assert world.entries("kpb_tcp_origin") == 0
