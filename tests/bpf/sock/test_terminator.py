# SPDX-License-Identifier: Apache-2.0
"""Connected UDP sockets whose backend went away are told so, in every network namespace."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Iterator

import pytest
import structlog

from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.dataplane.netns import all_namespaces, run_in_each
from kubeproxy_bpf.dataplane.sock_diag import abort_connected_udp
from kubeproxy_bpf.dataplane.terminator import Aborted, Terminator
from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.plan.records import RecordFlags
from tests.bpf.world import UDP, World, mapped

from .clients import ask, disconnect, error_of, opened
from .conftest import OBJECT
from .places import PORT, Places

pytestmark = pytest.mark.root

VIP, VIP6 = "172.30.0.1", "fd30::1"
B1, B2 = "10.99.1.1", "10.99.1.2"
FORMS = [(VIP, VIP, B1, B2), (VIP6, VIP6, "fd99::1", "fd99::2"), (VIP, f"::ffff:{VIP}", B1, B2)]


@pytest.fixture(params=["iterator", "sock_diag"])
def terminator(request: pytest.FixtureRequest, datapath: Datapath) -> Iterator[Terminator]:
    if request.param == "sock_diag":
        yield Terminator(None)
        return
    with Terminator.load(OBJECT.with_name("sock_destroy.bpf.o"), datapath.maps) as loaded:
        assert loaded.by_iterator
        yield loaded


@pytest.mark.parametrize("vip, dialled, old, new", FORMS)
@pytest.mark.parametrize("place", ["node", "pod"])
def test_a_socket_of_a_removed_backend_is_aborted(
    places: Places,
    world: World,
    terminator: Terminator,
    vip: str,
    dialled: str,
    old: str,
    new: str,
    place: str,
) -> None:
    """Its next call fails with ECONNABORTED, and the same socket can connect to another."""
    index = world.serve(vip, [old], protocol=UDP)

    def scenario() -> tuple[int, str, str]:
        with opened(dialled, socket.SOCK_DGRAM) as client:
            client.connect((dialled, 80))
            world.publish(index, [world.backend(new, protocol=UDP)])
            world.remove_backend(old, UDP)
            # Started from the node: the pod is another namespace.
            aborted = terminator.run([(mapped(old), PORT)], namespaces(places)).sockets
            failed = error_of(client.recv, 100)
            client.connect((dialled, 80))
            client.send(b"?")
            return aborted, failed, client.recv(100).decode()

    result = places.run(scenario, netns=getattr(places, place))
    assert result == (1, "ECONNABORTED", new)


def test_a_socket_that_names_its_peer_is_aborted_too(
    places: Places, world: World, terminator: Terminator
) -> None:
    """A datagram to the VIP by name makes no new flow: its answers would reach nobody, as a
    connected socket hears its peer alone."""
    index = world.serve(VIP, [B1], protocol=UDP)

    def scenario() -> tuple[int, str]:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            client.connect((VIP, 80))
            ask(client, VIP)
            world.publish(index, [world.backend(B2, protocol=UDP)])
            world.remove_backend(B1, UDP)
            client.sendto(b"?", (VIP, 80))
            aborted = terminator.run([(mapped(B1), PORT)], namespaces(places)).sockets
            return aborted, error_of(client.recv, 100)

    assert places.run(scenario) == (1, "ECONNABORTED")


def test_a_backend_that_left_only_this_service(
    places: Places, world: World, datapath: Datapath
) -> None:
    """The backend lives on in another Service, but not in the one that the socket dialled."""
    index = world.serve(VIP, [B1], protocol=UDP)
    aborted = _aborted_after(
        places, datapath, lambda: world.publish(index, [world.backend(B2, protocol=UDP)])
    )
    assert aborted == 1
    assert world.count("SOCKET_ABORTED") == 1


def test_a_draining_backend_keeps_its_sockets(
    places: Places, world: World, datapath: Datapath
) -> None:
    """What still serves is a member, though it is in no window."""
    index = world.serve(VIP, [B1], protocol=UDP)

    def drain() -> None:
        members = [world.backend(b, protocol=UDP) for b in (B2, B1)]
        world.publish(index, members, cluster=1)

    assert _aborted_after(places, datapath, drain) == 0


def test_a_service_without_endpoints_keeps_its_sockets(
    places: Places, world: World, datapath: Datapath
) -> None:
    """With nowhere else to go, sockets are left as they are."""
    index = world.serve(VIP, [B1], protocol=UDP)

    def remove() -> None:
        world.publish(index, [], flags=RecordFlags(0))
        world.remove_backend(B1, UDP)

    assert _aborted_after(places, datapath, remove) == 0


def test_a_deleted_service_keeps_its_sockets(
    places: Places, world: World, datapath: Datapath
) -> None:
    """Nobody serves the VIP now: its sockets are left as they are."""
    world.serve(VIP, [B1], protocol=UDP)

    def delete() -> None:
        world.vip(VIP, 0)
        world.remove_frontend(VIP, 80, UDP)
        world.remove_backend(B1, UDP)

    assert _aborted_after(places, datapath, delete) == 0


def test_a_socket_that_left_is_not_aborted(
    places: Places, world: World, datapath: Datapath
) -> None:
    """Only who is connected to the removed backend at this moment is told."""
    index = world.serve(VIP, [B1], protocol=UDP)

    def scenario() -> int:
        with opened(VIP, socket.SOCK_DGRAM) as client, opened(VIP, socket.SOCK_DGRAM) as other:
            client.connect((VIP, 80))
            client.connect((B2, PORT))
            ask(other, VIP)
            world.publish(index, [world.backend(B2, protocol=UDP)])
            world.remove_backend(B1, UDP)
            return _run(datapath, places)

    assert places.run(scenario) == 0


def test_a_socket_that_was_dissolved_is_not_aborted(
    places: Places, world: World, datapath: Datapath
) -> None:
    """connect() to AF_UNSPEC runs no hook: what counts is the peer that the socket has now."""
    index = world.serve(VIP, [B1], protocol=UDP)

    def scenario() -> int:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            client.bind(("0.0.0.0", 45454))  # else dissolving takes it out of the kernel's table
            client.connect((VIP, 80))
            disconnect(client)
            world.publish(index, [world.backend(B2, protocol=UDP)])
            world.remove_backend(B1, UDP)
            return _run(datapath, places)

    assert places.run(scenario) == 0


def test_all_namespaces_are_found(places: Places) -> None:
    """Each namespace with a process appears once, whatever the number of its processes."""
    found, _ = run_in_each(all_namespaces(), own_namespace)
    assert len(found) == len(set(found))
    assert {places.node.stat().st_ino, places.pod.stat().st_ino} <= set(found)


def test_a_short_process_hides_no_namespace(places: Places, tmp_path: Path) -> None:
    """A namespace that was seen is entered once, though the process that showed it has ended."""

    def seen() -> Iterator[Path]:
        first, second = tmp_path / "first", tmp_path / "second"
        for path in (first, second):
            path.symlink_to(places.node)
        yield first
        first.unlink()
        yield second
        yield tmp_path / "ended"

    assert run_in_each(seen(), own_namespace) == ([places.node.stat().st_ino], 0)


@pytest.mark.parametrize("error", [OSError(5, "broken"), UnsupportedKernel("it", "is broken")])
def test_a_namespace_that_fails_stops_no_other(places: Places, error: Exception) -> None:
    """What goes wrong in one is counted and told once; the others get their turn."""
    failing = places.node.stat().st_ino

    def function() -> int:
        if own_namespace() == failing:
            raise error
        return own_namespace()

    with structlog.testing.capture_logs() as logged:
        result = run_in_each([places.node, places.pod], function)
    assert result == ([places.pod.stat().st_ino], 1)
    assert [(entry["event"], entry["log_level"]) for entry in logged] == [
        ("netns_unreachable", "debug")
    ]


def test_without_peers_nothing_is_looked_at(places: Places) -> None:
    """The replacement has nothing to compare with: it does not even enter a namespace."""
    assert Terminator(None).run([], [Path("/not/there")]) == Aborted(0, 0)
    assert abort_connected_udp([]) == 0


def test_why_the_iterator_is_not_used_is_told(datapath: Datapath) -> None:
    """A map of another kind makes it impossible; the log gives the reason."""
    swapped = {**datapath.maps, "kpb_sock_state": datapath.maps["kpb_slots"]}
    with structlog.testing.capture_logs() as logged:
        with Terminator.load(OBJECT.with_name("sock_destroy.bpf.o"), swapped) as terminator:
            assert not terminator.by_iterator
    (event,) = (entry for entry in logged if entry["event"] == "socket_iterator_unused")
    assert event["error"]


def own_namespace() -> int:
    """The network namespace of the calling thread."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def namespaces(places: Places) -> list[Path]:
    """Only ours: tests abort no socket of anybody else."""
    return [places.node, places.pod]


def _run(datapath: Datapath, places: Places) -> int:
    with Terminator.load(OBJECT.with_name("sock_destroy.bpf.o"), datapath.maps) as terminator:
        return terminator.run(netns_paths=namespaces(places)).sockets


def _aborted_after(places: Places, datapath: Datapath, change: object) -> int:
    def scenario() -> int:
        with opened(VIP, socket.SOCK_DGRAM) as client:
            client.connect((VIP, 80))
            change()  # type: ignore[operator]
            return _run(datapath, places)

    result: int = places.run(scenario)
    return result
