# SPDX-License-Identifier: Apache-2.0
"""Packet programs at real devices by tcx links: first, kept over restarts, put back."""

from itertools import count

import pytest

from kubeproxy_bpf.dataplane import devicelink, devices
from kubeproxy_bpf.dataplane.devices import Wish
from kubeproxy_bpf.dataplane.places import Hook, Place
from kubeproxy_bpf.libbpf import AttachFlag, AttachType, Link, device_chain, program_ids
from tests.bpf.devices.process import WISH, Process, places, program_id

pytestmark = pytest.mark.root

TCX = AttachType.TCX_INGRESS


@pytest.fixture
def process(node, load, pins):
    made = []

    def start(**options):
        made.append(Process(node, load(), pins, **options))
        return made[-1]

    yield start
    for each in made:
        each.end()


@pytest.fixture
def foreign(node, load):
    """Attaches a program of somebody else."""
    links = []

    def attach(ifindex, hook=AttachType.TCX_INGRESS, flags=0):
        other = load()
        program = other.programs["kpb_tc_ingress"]
        links.append(node.do(lambda: Link.create(program.fd, ifindex, hook, flags)))
        return program.info().id

    yield attach
    for link in links:
        link.close()


def pinned(pins):
    return {path.name for path in pins.iterdir()}


def test_programs_run_in_both_directions(node, process, load, pins):
    """A packet that passes the device is seen at ingress and at egress."""
    index = node.wire("v0")
    counting = load()
    running = Process(node, counting, pins)
    running.sync(*places(index, "v0"))
    node.ip("addr add 192.0.2.1/24 dev v0")
    node.there("addr add 192.0.2.2/24 dev eth0")
    node.run("ping", "-c1", "-W5", "192.0.2.2")
    running.end()

    with counting.maps["t_passed"].map as passed:
        hooks = {key[4] for key, _ in passed.items() if key[0] == index}
    assert {1, 2} == hooks


def test_ours_stands_before_those_that_were_there(node, process, foreign):
    """A CNI's policy must see the addresses that we have made."""
    index = node.wire("v0")
    theirs = foreign(index)
    ours = process()
    ours.sync(*places(index, "v0"))

    assert [ours.ingress, theirs] == node.chain(places(index, "v0")[0])
    assert [ours.egress] == node.chain(places(index, "v0")[1])


def test_a_restart_swaps_the_program_inside_the_link(node, process, pins):
    """The pinned link keeps the old program running until the new one has its place."""
    index = node.wire("v0")
    first = process()
    first.sync(*places(index, "v0"))
    first.end()
    assert [first.ingress] == node.chain(places(index, "v0")[0])
    before = pinned(pins)

    second = process()
    second.sync(*places(index, "v0"))

    assert [second.ingress] == node.chain(places(index, "v0")[0])
    assert {f"dev-{index}-ingress", f"dev-{index}-egress"} == before == pinned(pins)
    assert not second.hooks.reattached


def test_a_restart_takes_the_first_place_again(node, process, foreign):
    """Somebody came before us while no process of ours ran."""
    index = node.wire("v0")
    first = process()
    first.sync(*places(index, "v0"))
    first.end()
    theirs = foreign(index, flags=AttachFlag.BEFORE)

    second = process()
    second.sync(*places(index, "v0"))

    assert [second.ingress, theirs] == node.chain(places(index, "v0")[0])


def test_what_is_removed_is_put_back(node, process, pins):
    """A link that somebody detached is made anew, once, and counted."""
    index = node.wire("v0")
    ours = process()
    ours.sync(*places(index, "v0"))
    with Link.open_pinned(pins / f"dev-{index}-ingress") as link:
        link.detach()
    assert [] == node.chain(places(index, "v0")[0])

    ours.sync(*places(index, "v0"))
    ours.sync(*places(index, "v0"))

    assert [ours.ingress] == node.chain(places(index, "v0")[0])
    assert {places(index, "v0")[0]: 1} == ours.hooks.reattached


def test_what_is_wanted_no_longer_does_not_hold_up_what_is(node, process, monkeypatch):
    """Among very many devices a pass ends early, though never without having attached some, and
    not the first one: it takes the place of an earlier process."""
    monkeypatch.setattr(devices, "_PATIENCE_S", 0.0)
    wires = [Place(node.wire(f"v{n}", f"e{n}"), f"v{n}", Hook.INGRESS) for n in range(4)]
    ours = process(clock=count().__next__)
    node.do(lambda: ours.hooks.sync({}, outdated=lambda: True))
    many = {place: WISH for place in wires[:3]}

    node.do(lambda: ours.hooks.sync(many, outdated=lambda: True))
    assert 1 <= len(ours.hooks.attached) < 3
    node.do(lambda: ours.hooks.sync({wires[3]: WISH, **many}, outdated=lambda: True))
    assert wires[3] in ours.hooks.attached
    node.do(lambda: ours.hooks.sync({wires[3]: WISH, **many}))
    assert set(wires) == set(ours.hooks.attached)
    ours.end()
    again = process(clock=count().__next__)
    node.do(lambda: again.hooks.sync(many, outdated=lambda: True))
    assert set(many) == set(again.hooks.attached)


def test_a_device_that_went_meanwhile_is_not_asked_to_take_a_program(node, process):
    """A thousand pods that go at once fill no log, and are no refusals."""
    place = Place(node.wire("v0"), "v0", Hook.INGRESS)
    ours = process()
    ours.sync(place)
    node.ip("link del v0")
    ours.sync(place)

    assert [] == ours.hooks.attached
    assert {} == ours.hooks.refused


@pytest.mark.parametrize("lost", ["directory", "file system"])
def test_a_program_is_put_back_also_if_its_pin_cannot_be(lost, node, process, pins):
    """Somebody removed both; without the file system the program serves unpinned."""
    place = Place(node.wire("v0"), "v0", Hook.INGRESS)
    ours = process()
    ours.sync(place)
    pinned_at = pins / f"dev-{place.ifindex}-ingress"
    with Link.open_pinned(pinned_at) as link:
        link.detach()
    pinned_at.unlink()
    pins.rmdir()
    if lost == "file system":
        pins.symlink_to("/tmp")
    try:
        ours.sync(place)
        assert [ours.ingress] == node.chain(place)
        assert {} == ours.hooks.refused
        assert pinned_at.exists() == (lost == "directory")
    finally:
        if lost == "file system":
            pins.unlink()
            pins.mkdir()


def test_who_pushes_in_front_is_overtaken_and_left_alone(node, process, foreign):
    """Foreign programs go on behind ours."""
    index = node.wire("v0")
    ours = process()
    ours.sync(*places(index, "v0"))
    theirs = foreign(index, flags=AttachFlag.BEFORE)
    assert [theirs, ours.ingress] == node.chain(places(index, "v0")[0])

    ours.sync(*places(index, "v0"))

    assert [ours.ingress, theirs] == node.chain(places(index, "v0")[0])
    assert {places(index, "v0")[0]: 1} == ours.hooks.reattached


def test_there_is_no_moment_without_a_program(node, process, load, foreign, monkeypatch):
    """A copy stands in front while the program moves; then it is gone, and the pin is the new."""
    index = node.wire("v0")
    place, _ = places(index, "v0")
    copies, seen = [], []

    def load_copy(name):
        copy = load()
        copies.append(program_id(copy, name))
        return copy

    def end(link):
        ended(link)
        seen.append([entry.prog_id for entry in device_chain(index, AttachType.TCX_INGRESS)])

    ours = process(load_copy=load_copy)
    ours.sync(place)
    theirs = foreign(index, flags=AttachFlag.BEFORE)
    ended = devicelink._end
    monkeypatch.setattr(devicelink, "_end", end)
    ours.sync(place)
    monkeypatch.undo()

    assert [[*copies, theirs]] == seen
    assert copies[0] not in program_ids()
    assert [ours.ingress, theirs] == node.chain(place)
    assert {place: 1} == ours.hooks.reattached
    ours.end()
    second = process()
    second.sync(place)
    assert [second.ingress, theirs] == node.chain(place)


def test_who_comes_back_to_the_front_is_borne(node, process, foreign):
    """Moving breaks connections, so only the first loss is made good at once."""
    now = [0.0]
    index = node.wire("v0")
    place, _ = places(index, "v0")
    ours = process(clock=lambda: now[0])
    ours.sync(place)
    theirs = [foreign(index, flags=AttachFlag.BEFORE)]
    ours.sync(place)
    assert [ours.ingress, *theirs] == node.chain(place)

    theirs.insert(0, foreign(index, flags=AttachFlag.BEFORE))
    ours.sync(place)
    now[0] = 9.9
    ours.sync(place)
    assert [theirs[0], ours.ingress, theirs[1]] == node.chain(place)
    assert {place: 1} == ours.hooks.reattached
    now[0] = 10.0
    ours.sync(place)

    assert [ours.ingress, *theirs] == node.chain(place)
    assert {place: 2} == ours.hooks.reattached


def test_a_glance_sees_what_a_look_would_mend(node, process, foreign):
    """What is gone, and the first loss of the first place; not what is borne, nor other devices."""
    time = 0.0
    ours = process(clock=lambda: time)
    place = Place(node.wire("v0"), "v0", Hook.INGRESS)

    def glance(device="v0"):
        return node.do(lambda: ours.hooks.lacks({device}))

    ours.sync(place)
    assert not glance()
    with node.do(lambda: Link.from_id(device_chain(place.ifindex, TCX)[0].link_id)) as link:
        link.detach()
    assert glance() and not glance("v1")
    ours.sync(place)
    assert not glance()
    for moment in (0.0, 1.0):
        time = moment
        foreign(place.ifindex, flags=AttachFlag.BEFORE)
        seen = glance()
        ours.sync(place)
        assert seen and not glance()
    time = 20.0
    assert glance()


def test_a_removed_program_is_put_back_at_once_whoever_is_in_front(node, process, foreign, pins):
    """Patience is for those who stand before a program that works."""
    index = node.wire("v0")
    place, _ = places(index, "v0")
    ours = process(clock=lambda: 0.0)
    ours.sync(place)
    theirs = []
    for _ in range(2):
        theirs.insert(0, foreign(index, flags=AttachFlag.BEFORE))
        ours.sync(place)
    assert [theirs[0], ours.ingress, theirs[1]] == node.chain(place)
    with Link.open_pinned(pins / f"dev-{index}-ingress") as link:
        link.detach()
    ours.sync(place)

    assert [ours.ingress, *theirs] == node.chain(place)


def test_a_device_that_is_gone_takes_its_pins_along(node, process, pins):
    """Nothing is left for another device that gets the same number."""
    index = node.wire("v0")
    ours = process()
    ours.sync(*places(index, "v0"))
    node.ip("link del v0")
    ours.sync()

    assert set() == pinned(pins)
    assert [] == ours.hooks.attached
    assert not ours.hooks.reattached


def test_a_number_that_is_used_again_gets_a_link_of_its_own(node, process, pins):
    """The pinned link of the device that is gone is not taken for the new one's."""
    index = node.wire("v0")
    first = process()
    first.sync(*places(index, "v0"))
    first.end()
    node.ip("link del v0")
    netns = f"/run/netns/{node.peer}"
    node.ip(f"link add name v1 index {index} type veth peer name eth1 netns {netns}")

    second = process()
    second.sync(*places(index, "v1"))

    assert [second.ingress] == node.chain(places(index, "v1")[0])
    assert {f"dev-{index}-ingress", f"dev-{index}-egress"} == pinned(pins)


def test_the_same_name_again_is_a_new_device(node, process):
    """A device that comes back has another number, and gets its programs."""
    ours = process()
    first = node.wire("v0")
    ours.sync(*places(first, "v0"))
    node.ip("link del v0")
    second = node.wire("v0")
    ours.sync(*places(second, "v0"))

    assert first != second
    assert [ours.ingress] == node.chain(places(second, "v0")[0])
    assert set(places(second, "v0")) == set(ours.hooks.attached)


def test_what_is_not_wanted_any_more_is_ended(node, process, foreign, pins):
    """Also if another process had attached it; what is of others stays."""
    index, other = node.wire("v0"), node.wire("v1", "eth1")
    theirs = foreign(other)
    first = process()
    first.sync(*places(index, "v0"), *places(other, "v1"))
    first.end()

    second = process()
    second.sync(*places(index, "v0"))

    assert [theirs] == node.chain(places(other, "v1")[0])
    assert [second.ingress] == node.chain(places(index, "v0")[0])
    assert {f"dev-{index}-ingress", f"dev-{index}-egress"} == pinned(pins)


def test_one_device_that_refuses_does_not_concern_the_others(node, process):
    """What cannot be attached is told by place, and tried again when it can."""
    index = node.wire("v0")
    missing = places(index + 1000, "gone")
    ours = process()
    ours.sync(*missing, *places(index, "v0"))

    assert [ours.ingress] == node.chain(places(index, "v0")[0])
    assert set(missing) == set(ours.hooks.refused)
    ours.sync(*places(index, "v0"))
    assert not ours.hooks.refused


@pytest.mark.parametrize(
    ("line", "name", "ethernet"),
    [
        ("tuntap add dev tun0 mode tun", "tun0", False),
        ("tuntap add dev tap0 mode tap", "tap0", True),
        ("link add name vx0 type vxlan id 7 dstport 4789", "vx0", True),
        ("link add name br0 type bridge", "br0", True),
    ],
)
def test_every_kind_of_device_takes_the_program_of_its_frames(
    node, load, pins, line, name, ethernet
):
    """Devices without Ethernet header get the variant that starts at IP."""
    node.ip(line)
    index = node.ifindex(name)
    bpf_object = load()
    ours = Process(node, bpf_object, pins)
    ours.sync(*places(index, name), wish=Wish(ethernet=ethernet))
    suffix = "" if ethernet else "_l3"
    wanted = [program_id(bpf_object, f"kpb_tc_{hook}{suffix}") for hook in ("ingress", "egress")]
    seen = [node.chain(place)[0] for place in places(index, name)]
    ours.end()

    assert wanted == seen
