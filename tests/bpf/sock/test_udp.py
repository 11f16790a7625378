# SPDX-License-Identifier: Apache-2.0
"""UDP: one socket keeps one backend per VIP, and answers come from the VIP."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from kubeproxy_bpf.plan.records import BackendFlags, FrontendFlags, RecordFlags
from tests.bpf.world import EXTERNAL_IP, UDP, World

from . import clients
from .clients import ask, error_of, opened
from .places import PORT, Places

pytestmark = pytest.mark.root

VIP, VIP6, OTHER = "172.30.0.1", "fd30::1", "172.30.0.2"
B1, B2, B3 = "10.99.1.1", "10.99.1.2", "10.99.1.3"
EVERY_FORM = [(VIP, VIP, B1), (VIP6, VIP6, "fd99::1"), (VIP, f"::ffff:{VIP}", B1)]


@pytest.mark.parametrize("vip, dialled, backend", EVERY_FORM)
@pytest.mark.parametrize("place", ["node", "pod"])
def test_connected(
    places: Places, world: World, vip: str, dialled: str, backend: str, place: str
) -> None:
    """A connected socket hears the VIP and sees it as its peer."""
    world.serve(vip, [backend], protocol=UDP)
    answer = places.run(clients.udp, dialled, netns=getattr(places, place))
    assert answer == (backend, dialled, dialled)


@pytest.mark.parametrize("vip, dialled, backend", EVERY_FORM)
@pytest.mark.parametrize("place", ["node", "pod"])
def test_unconnected(
    places: Places, world: World, vip: str, dialled: str, backend: str, place: str
) -> None:
    """A datagram to the VIP is answered by the VIP, also through an IPv6 socket in mapped form."""
    world.serve(vip, [backend], protocol=UDP)
    answer = places.run(clients.sendto, dialled, netns=getattr(places, place))
    assert answer == (backend, (dialled, 80))
    assert world.count("REPLY") == 1


def test_nothing_is_counted_where_nobody_asks(places: Places, world: World) -> None:
    """Connections of Services cost nothing by default, and are not counted."""
    index = world.serve(VIP, [B1], protocol=UDP)
    places.run(clients.udp, VIP)
    assert world.count("TRANSLATED") == 1
    assert world.traffic(index) == (0, 0, 0)


def test_a_socket_keeps_its_backend(places: Places, world: World) -> None:
    """All datagrams of a socket go one way, also after endpoints are added."""
    index = world.serve(VIP, [B1, B2], protocol=UDP)

    def scenario() -> set[str]:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            answers = {ask(client, VIP)[0] for _ in range(10)}
            members = [world.backend(b, protocol=UDP) for b in (B3, B1, B2)]
            world.publish(index, members)
            return answers | {ask(client, VIP)[0] for _ in range(10)}

    for _ in range(5):
        assert len(places.run(scenario)) == 1
    assert world.count("STICKY") == 5 * 19


def test_a_draining_backend_keeps_its_sockets(places: Places, world: World) -> None:
    """A backend that serves but is in no window gets no new flow and keeps those it has."""
    index = world.serve(VIP, [B1], protocol=UDP)

    def scenario() -> tuple[str, str]:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            ask(client, VIP)
            members = [world.backend(b, protocol=UDP) for b in (B2, B1)]
            world.publish(index, members, cluster=1)
            return ask(client, VIP)[0], clients.sendto(VIP)[0]

    assert places.run(scenario) == (B1, B2)


@pytest.mark.parametrize("shared", [False, True])
def test_a_removed_backend_is_replaced(places: Places, world: World, shared: bool) -> None:
    """An unconnected socket chooses anew, also when another service still uses the backend."""
    index = world.serve(VIP, [B1], protocol=UDP)

    def scenario() -> str:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            ask(client, VIP)
            world.publish(index, [world.backend(B2, protocol=UDP)])
            if not shared:
                world.remove_backend(B1, UDP)
            return ask(client, VIP)[0]

    assert places.run(scenario) == B2


def test_a_backend_id_with_another_life_is_not_the_same(places: Places, world: World) -> None:
    """A flow whose backend was freed and given out again chooses anew."""
    index = world.serve(VIP, [B1], protocol=UDP)

    def scenario() -> str:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            ask(client, VIP)
            world.remove_backend(B1, UDP)
            world.backend(B1, protocol=UDP)
            world.publish(
                index, [world.backend(B2, protocol=UDP), world.backend(B1, protocol=UDP)], cluster=1
            )
            return ask(client, VIP)[0]

    assert places.run(scenario) == B2


def test_nothing_is_pinned_before_the_first_endpoint(places: Places, world: World) -> None:
    """Datagrams that were refused leave no trace; the first endpoint serves the same socket."""
    index = world.serve(VIP, [], protocol=UDP, flags=RecordFlags(0))

    def scenario() -> tuple[str, Any]:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            refused = error_of(client.sendto, b"?", (VIP, 80))
            world.publish(index, [world.backend(B1, protocol=UDP)])
            return refused, ask(client, VIP)

    assert places.run(scenario) == ("ECONNREFUSED", (B1, (VIP, 80)))


def test_an_answer_that_comes_late_is_the_vips(places: Places, world: World) -> None:
    """An answer of a backend that was removed meanwhile is still shown as the VIP's."""
    index = world.serve(VIP, [B1], protocol=UDP)

    def scenario() -> tuple[Any, ...]:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            client.sendto(b"?", (VIP, 80))
            world.publish(index, [], flags=RecordFlags(0))
            world.remove_backend(B1, UDP)
            answer, sender = client.recvfrom(100)
            return answer.decode(), sender

    assert places.run(scenario) == (B1, (VIP, 80))


def test_connecting_elsewhere_shows_elsewhere(places: Places, world: World) -> None:
    """A socket that leaves the VIP for the backend itself sees the backend."""
    world.serve(VIP, [B1], protocol=UDP)

    def scenario() -> tuple[Any, ...]:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            client.connect((VIP, 80))
            client.connect((B1, PORT))
            client.send(b"?")
            return client.recvfrom(100)[1], client.getpeername()

    assert places.run(scenario) == ((B1, PORT), (B1, PORT))


def test_speaking_to_the_backend_itself(places: Places, world: World) -> None:
    """The same unconnected socket hears whom it spoke to last: the VIP, the backend, the VIP."""
    world.serve(VIP, [B1], protocol=UDP)

    def scenario() -> list[Any]:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            return [ask(client, *to)[1] for to in ((VIP, 80), (B1, PORT), (VIP, 80))]

    assert places.run(scenario) == [(VIP, 80), (B1, PORT), (VIP, 80)]


@pytest.mark.parametrize("dialled, shown", [(VIP, B1), (f"::ffff:{VIP}", f"::ffff:{B1}")])
def test_speaking_to_the_backend_after_disconnecting(
    places: Places, world: World, dialled: str, shown: str
) -> None:
    """connect() to AF_UNSPEC runs no hook: the VIP is over for that socket all the same."""
    world.serve(VIP, [B1], protocol=UDP)

    def scenario() -> Any:
        with opened(dialled, socket.SOCK_DGRAM) as client:
            client.connect((dialled, 80))
            clients.disconnect(client)
            return ask(client, shown, PORT)

    assert places.run(scenario) == (B1, (shown, PORT))


LEFT_ALONE = {
    "source ranges": {"kind": (*EXTERNAL_IP[:2], EXTERNAL_IP[2] | FrontendFlags.SOURCE_RANGES)},
    "loopback source": {"kind": EXTERNAL_IP},
}


@pytest.mark.parametrize("left_alone", LEFT_ALONE)
def test_a_frontend_that_is_left_alone_shows_itself(
    places: Places, world: World, left_alone: str
) -> None:
    """Another VIP of the same backend address, used before, colours nothing."""
    world.serve(OTHER, ["127.0.0.1"], protocol=UDP, backend_flags=BackendFlags.HOST)
    world.serve("127.0.0.1", [B1], port=PORT, protocol=UDP, **LEFT_ALONE[left_alone])

    def scenario() -> tuple[Any, Any]:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            client.bind(("127.0.0.1", 0))
            client.connect((OTHER, 80))
            before = client.getpeername()
            client.connect(("127.0.0.1", PORT))
            return before, client.getpeername()

    assert places.run(scenario) == ((OTHER, 80), ("127.0.0.1", PORT))


def test_two_vips_of_one_backend(places: Places, world: World) -> None:
    """Answers of a shared backend come from the VIP that was spoken to last."""
    world.serve(VIP, [B1], protocol=UDP)
    world.serve(OTHER, [B1], protocol=UDP)

    def scenario() -> list[Any]:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            return [ask(client, vip)[1] for vip in (VIP, OTHER, VIP, OTHER)]

    assert places.run(scenario) == [(vip, 80) for vip in (VIP, OTHER, VIP, OTHER)]


def test_a_connected_socket_hears_its_peer_alone(places: Places, world: World) -> None:
    """What it sent to another VIP of its backend by name does not colour what its peer answers."""
    world.serve(VIP, [B1], protocol=UDP)
    world.serve(OTHER, [B1], protocol=UDP)

    def scenario() -> tuple[Any, Any]:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            client.connect((VIP, 80))
            ask(client, OTHER)
            client.send(b"?")
            return client.recvfrom(100)[1], client.getpeername()

    assert places.run(scenario) == ((VIP, 80), (VIP, 80))


def test_more_vips_than_a_socket_remembers(places: Places, world: World) -> None:
    """Beyond four VIPs a socket still keeps its backends, and answers are still the VIPs'."""
    backends = [f"10.99.1.{n}" for n in range(1, 9)]
    vips = [f"172.30.0.{n}" for n in range(1, 9)]
    for vip in vips:
        world.serve(vip, backends, protocol=UDP)

    def scenario() -> tuple[list[Any], list[Any], int]:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            first = [ask(client, vip) for vip in vips]
            return first, [ask(client, vip) for vip in vips], world.entries("kpb_sock_flows")

    first, second, held = places.run(scenario)
    assert first == second
    assert [sender for _, sender in first] == [(vip, 80) for vip in vips]
    assert held > 0
    assert world.entries("kpb_sock_flows") == 0


def test_a_late_answer_of_a_spilled_flow(places: Places, world: World) -> None:
    """An answer that is read after its flow moved out of the socket is still the VIP's."""
    vips = [f"172.30.0.{n}" for n in range(1, 8)]
    for number, vip in enumerate(vips, 1):
        world.serve(vip, [f"10.99.1.{number}"], protocol=UDP)

    def scenario() -> set[Any]:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            for vip in vips:
                client.sendto(b"?", (vip, 80))
            return {client.recvfrom(100)[1] for _ in vips}

    assert places.run(scenario) == {(vip, 80) for vip in vips}
