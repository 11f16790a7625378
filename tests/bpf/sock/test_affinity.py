# SPDX-License-Identifier: Apache-2.0
"""Session affinity: a client, known by its network namespace, stays with its backend."""

from __future__ import annotations

import struct

import pytest

from kubeproxy_bpf.plan.records import FrontendKind, RecordFlags, VipFlags
from tests.bpf.world import EXTERNAL_IP, TCP, UDP, World

from . import clients
from .places import Places

pytestmark = pytest.mark.root

VIP = "172.30.0.1"
ALL = [f"10.99.1.{n}" for n in range(1, 9)]
LONG_S = 10800


def answers(places: Places, vip: str = VIP, times: int = 12, place: str = "node") -> set[str]:
    """Who answers this many connections, each by a process and a socket of its own."""
    netns = getattr(places, place)
    return set(places.run(_answers, vip, times, netns=netns))


def _answers(vip: str, times: int) -> list[str]:
    return [clients.tcp(vip)[0] for _ in range(times)]


def test_a_client_stays_with_its_backend(places: Places, world: World) -> None:
    """All connections of a namespace go to one backend; another namespace has its own."""
    world.serve(VIP, ALL, affinity_s=LONG_S)
    first = answers(places)
    assert len(first) == 1
    assert answers(places) == first
    assert world.count("AFFINITY_HIT") == 23
    assert world.entries("kpb_affinity") == 1
    assert len(answers(places, place="pod")) == 1
    assert world.entries("kpb_affinity") == 2


def test_without_affinity_nothing_is_remembered(places: Places, world: World) -> None:
    """A service without affinity writes no entry and spreads."""
    world.serve(VIP, ALL)
    assert len(answers(places, times=30)) > 1
    assert world.entries("kpb_affinity") == 0


def test_addresses_of_a_service_share_it(places: Places, world: World) -> None:
    """Whichever address a client uses, the pin is the service's."""
    index = world.serve(VIP, ALL, affinity_s=LONG_S)
    world.frontend("172.30.0.2", 80, TCP, index, FrontendKind.EXTERNAL_IP)
    world.vip("172.30.0.2", VipFlags.EXTERNAL)
    assert len(answers(places) | answers(places, "172.30.0.2")) == 1


def test_udp_sockets_share_it(places: Places, world: World) -> None:
    """New UDP sockets of a client are pinned too, connected or not."""
    world.serve(VIP, ALL, protocol=UDP, affinity_s=LONG_S)
    names = {places.run(clients.udp, VIP)[0] for _ in range(6)}
    names |= {places.run(clients.sendto, VIP)[0] for _ in range(6)}
    assert len(names) == 1


def test_it_ends_with_its_time(places: Places, world: World) -> None:
    """A pin that was not used for the time-out counts no longer; use prolongs it.

    Time passes by what the pin says of its last use; the clock itself is tried in a cluster.
    """
    index = world.serve(VIP, ALL[:1], affinity_s=3)
    answers(places, times=1)
    world.publish(index, [world.backend(b) for b in ALL], affinity_s=3)
    for _ in range(3):  # each use within the time-out, the last one beyond it
        _last_used_earlier(world, 2)
        assert answers(places, times=1) == {ALL[0]}
    assert world.count("AFFINITY_HIT") == 3
    _last_used_earlier(world, 5)
    answers(places, times=1)
    assert world.count("AFFINITY_HIT") == 3


def _last_used_earlier(world: World, seconds: int) -> None:
    pins = world.maps["kpb_affinity"]
    (key,) = pins.keys()
    pin = pins.lookup(key)
    assert pin is not None
    (last_use_s,) = struct.unpack("=I", pin[-4:])
    pins.update(key, pin[:-4] + struct.pack("=I", last_use_s - seconds))


def test_a_use_that_seems_to_lie_ahead_is_recent(places: Places, world: World) -> None:
    """Another processor may note the next second first: that pin is fresh, not timed out."""
    index = world.serve(VIP, ALL[:1], affinity_s=LONG_S)
    answers(places, times=1)
    world.publish(index, [world.backend(b) for b in ALL], affinity_s=LONG_S)
    pins = world.maps["kpb_affinity"]
    (key,) = pins.keys()
    pin = pins.lookup(key)
    assert pin is not None
    (last_use_s,) = struct.unpack("=I", pin[-4:])
    pins.update(key, pin[:-4] + struct.pack("=I", last_use_s + 60))
    assert answers(places, times=1) == {ALL[0]}
    assert world.count("AFFINITY_HIT") == 1


def test_a_backend_outside_the_window_is_forgotten(places: Places, world: World) -> None:
    """When the backend leaves the set the client gets another, and stays with that one."""
    index = world.serve(VIP, ALL[:1], affinity_s=LONG_S)
    answers(places, times=1)
    world.publish(index, [world.backend(b) for b in ALL[1:]], affinity_s=LONG_S)
    newer = answers(places)
    assert len(newer) == 1 and newer != {ALL[0]}
    world.publish(index, [world.backend(b) for b in ALL], affinity_s=LONG_S)
    assert answers(places) == newer


def test_a_draining_backend_is_not_for_new_flows(places: Places, world: World) -> None:
    """A pin to a member that is in no window does not count."""
    index = world.serve(VIP, ALL[:1], affinity_s=LONG_S)
    answers(places, times=1)
    members = [world.backend(ALL[1]), world.backend(ALL[0])]
    world.publish(index, members, cluster=1, affinity_s=LONG_S)
    assert answers(places) == {ALL[1]}


def _two_policies(world: World, backends: list[str], local: tuple[int, int]) -> None:
    """A Service whose internal window is its first two backends, and whose external is local."""
    flags = RecordFlags.HAS_ENDPOINTS | RecordFlags.EXTERNAL_LOCAL
    index = world.serve(VIP, backends, cluster=2, local=local, flags=flags, affinity_s=LONG_S)
    world.frontend("172.30.0.2", 80, TCP, index, FrontendKind.EXTERNAL_IP, EXTERNAL_IP[2])
    world.vip("172.30.0.2", VipFlags.EXTERNAL)


def test_each_policy_has_its_own_window(places: Places, world: World) -> None:
    """One record, two windows: what was found in one must be found in the other to count."""
    _two_policies(world, ALL[:4], local=(2, 2))
    for _ in range(3):
        assert answers(places, times=2, place="pod") <= {ALL[0], ALL[1]}
        assert answers(places, "172.30.0.2", 2, "pod") <= {ALL[2], ALL[3]}


def test_a_backend_of_both_windows_serves_both(places: Places, world: World) -> None:
    """A pin of one policy holds for the other where that one may use the backend."""
    _two_policies(world, [ALL[0], ALL[0], ALL[1], ALL[2], ALL[3]], local=(1, 4))
    assert answers(places, times=2, place="pod") == {ALL[0]}
    assert answers(places, "172.30.0.2", 8, "pod") == {ALL[0]}


def test_another_life_of_affinity_starts_afresh(places: Places, world: World) -> None:
    """After affinity was off and on again, old pins do not count."""
    index = world.serve(VIP, ALL[:1], affinity_s=LONG_S)
    answers(places, times=1)
    members = [world.backend(b) for b in ALL]
    world.publish(index, members, affinity_s=LONG_S, generation=2)
    hits = world.count("AFFINITY_HIT")
    answers(places, times=1)
    assert world.count("AFFINITY_HIT") == hits


def test_a_backend_with_another_life_does_not_count(places: Places, world: World) -> None:
    """A pin to an id that was freed and given out again is void."""
    index = world.serve(VIP, ALL[:1], affinity_s=LONG_S)
    answers(places, times=1)
    world.remove_backend(ALL[0])
    world.publish(index, [world.backend(ALL[0])], affinity_s=LONG_S)
    hits = world.count("AFFINITY_HIT")
    assert answers(places, times=1) == {ALL[0]}
    assert world.count("AFFINITY_HIT") == hits
