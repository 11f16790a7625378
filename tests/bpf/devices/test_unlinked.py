# SPDX-License-Identifier: Apache-2.0
"""Packet programs at real devices without links: they stay, are replaced in place, change over."""

import socket

import pytest

from kubeproxy_bpf.dataplane.attachments import Attachment
from kubeproxy_bpf.dataplane.devices import DeviceHooks, Wish
from kubeproxy_bpf.dataplane.places import Hook, Place
from kubeproxy_bpf.libbpf import AttachFlag, AttachType, Link, device_chain

pytestmark = pytest.mark.root

NATIVE, GENERIC = Wish(xdp_mode="native"), Wish(xdp_mode="generic")
OURS = ("kpb_tc_ingress", "kpb_tc_egress", "kpb_xdp", "kpb_xdp_linear")


@pytest.fixture
def ours():
    """The ids of all programs of the instance, which the kernel would tell by their maps."""
    return set()


@pytest.fixture
def process(node, load, pins, ours):
    """Starts a process with pins or without; it leaves nothing behind but what the kernel keeps."""
    made = []

    def start(pinned=False, tcx=None):
        programs = load().programs
        ours.update(programs[name].info().id for name in OURS)
        links = pins if pinned else None
        made.append(node.do(lambda: DeviceHooks(programs, links, tcx=tcx, owned=ours)))
        return made[-1], {name: programs[name].info().id for name in OURS}

    yield start
    for hooks in made:
        node.do(hooks.close)


@pytest.fixture
def v0(node):
    index = node.wire("v0")
    return {hook: Place(index, "v0", hook) for hook in Hook}


def links_at(node, place):
    kinds = {Hook.INGRESS: AttachType.TCX_INGRESS, Hook.EGRESS: AttachType.TCX_EGRESS}
    chain = node.do(lambda: device_chain(place.ifindex, kinds[place.hook]))
    return [bool(entry.link_id) for entry in chain]


def xdp(node):
    found = node.link("v0").get("xdp", {"mode": 0, "prog": {"id": 0}})
    return {0: "none", 1: "native", 2: "generic"}[found["mode"]], found["prog"]["id"]


def foreign(node, load, place, flags=0):
    """A program of somebody else; the caller closes the link."""
    program = load().programs["kpb_tc_ingress"]
    kind = AttachType.TCX_INGRESS
    link = node.do(lambda: Link.create(program.fd, place.ifindex, kind, flags))
    return link, program.info().id


def test_a_restart_replaces_the_program_in_its_place(node, process, load, v0):
    """It stays without process, before all others; the next one takes its very place."""
    place = v0[Hook.INGRESS]
    first, old = process()
    node.do(lambda: first.sync({place: Wish()}))
    node.do(first.close)
    link, theirs = foreign(node, load, place)
    assert [old["kpb_tc_ingress"], theirs] == node.chain(place)

    second, new = process()
    node.do(lambda: second.sync({place: Wish()}))
    assert [new["kpb_tc_ingress"], theirs] == node.chain(place)
    link.close()
    assert [False] == links_at(node, place)
    assert not second.reattached


def test_a_restart_takes_the_first_place_again(node, process, load, v0):
    """Somebody came before us while no process of ours ran: ours is there once, and first."""
    place = v0[Hook.INGRESS]
    first, _ = process()
    node.do(lambda: first.sync({place: Wish()}))
    node.do(first.close)
    link, theirs = foreign(node, load, place, AttachFlag.BEFORE)

    second, new = process()
    node.do(lambda: second.sync({place: Wish()}))
    assert [new["kpb_tc_ingress"], theirs] == node.chain(place)
    link.close()


def test_who_pushes_in_front_is_overtaken(node, load, ours, v0, monkeypatch):
    """A copy stands in front while the program moves; the program alone is left."""
    place, hook = v0[Hook.INGRESS], AttachType.TCX_INGRESS
    programs, copies, seen = load().programs, [], []
    ours.add(programs["kpb_tc_ingress"].info().id)

    def load_copy(name):
        copy = load()
        copies.append(copy.programs[name].info().id)
        return copy

    def end(attachment):
        ended(attachment)
        seen.append([entry.prog_id for entry in device_chain(place.ifindex, hook)])

    hooks = node.do(lambda: DeviceHooks(programs, None, owned=ours, load_copy=load_copy))
    node.do(lambda: hooks.sync({place: Wish()}))
    link, theirs = foreign(node, load, place, AttachFlag.BEFORE)
    ended = Attachment.end
    monkeypatch.setattr(Attachment, "end", end)
    node.do(lambda: hooks.sync({place: Wish()}))
    monkeypatch.undo()

    assert [[*copies, theirs]] == seen
    assert [programs["kpb_tc_ingress"].info().id, theirs] == node.chain(place)
    link.close()


@pytest.mark.parametrize("pinned", [False, True], ids=["to none", "to pins"])
def test_the_other_mode_leaves_one_program(pinned, node, process, v0, pins):
    """What the earlier process attached in the other way ends, at all three hooks."""
    wishes = {place: NATIVE for place in v0.values()}
    first, _ = process(pinned=not pinned)
    node.do(lambda: first.sync(wishes))
    node.do(first.close)
    second, new = process(pinned=pinned)
    node.do(lambda: second.sync(wishes))

    assert [new["kpb_tc_ingress"]] == node.chain(v0[Hook.INGRESS])
    assert [new["kpb_tc_egress"]] == node.chain(v0[Hook.EGRESS])
    assert [pinned] == links_at(node, v0[Hook.INGRESS]) == links_at(node, v0[Hook.EGRESS])
    assert ("native", new["kpb_xdp"]) == xdp(node)
    assert not second.refused


def test_what_is_not_wanted_any_more_goes(node, process, v0):
    """A place that only the earlier process wanted is empty after the first look."""
    first, _ = process()
    node.do(lambda: first.sync({place: NATIVE for place in v0.values()}))
    node.do(first.close)
    second, new = process()
    node.do(lambda: second.sync({v0[Hook.INGRESS]: Wish()}))

    assert [new["kpb_tc_ingress"]] == node.chain(v0[Hook.INGRESS])
    assert [] == node.chain(v0[Hook.EGRESS])
    assert ("none", 0) == xdp(node)


@pytest.mark.parametrize("wish", [NATIVE, GENERIC], ids=["same mode", "other mode"])
def test_xdp_is_replaced(wish, node, process, v0):
    """In the same mode in one step; another mode takes the place of the old one."""
    place = v0[Hook.XDP]
    first, _ = process()
    node.do(lambda: first.sync({place: NATIVE}))
    node.do(first.close)
    second, new = process()
    node.do(lambda: second.sync({place: wish}))

    assert (wish.xdp_mode, new["kpb_xdp"]) == xdp(node)
    assert not second.refused


def test_filters_serve_where_there_is_no_tcx(node, process, v0):
    """Beside XDP without link; a restart puts its programs into both."""
    wishes = {v0[Hook.INGRESS]: Wish(), v0[Hook.XDP]: NATIVE}
    first, _ = process(tcx=False)
    node.do(lambda: first.sync(wishes))
    node.do(first.close)
    second, new = process(tcx=False)
    node.do(lambda: second.sync(wishes))

    (line,) = node.filters(v0[Hook.INGRESS])
    assert f" id {new['kpb_tc_ingress']} " in line
    assert ("native", new["kpb_xdp"]) == xdp(node)
    assert [] == node.chain(v0[Hook.INGRESS])


def test_xdp_of_somebody_else_is_not_touched(node, process, load, v0):
    """One program per device: theirs was first, ours is refused."""
    place = v0[Hook.XDP]
    theirs = load().programs["kpb_xdp"]
    mode = 1 << 2
    link = node.do(lambda: Link.create(theirs.fd, place.ifindex, AttachType.XDP, mode))
    hooks, _ = process()
    node.do(lambda: hooks.sync({place: NATIVE}))

    assert [place] == list(hooks.refused)
    assert theirs.info().id == xdp(node)[1]
    link.close()


def test_what_is_removed_is_put_back(node, process, v0):
    """Somebody who detaches ours is noticed at the next look."""
    place = v0[Hook.INGRESS]
    first, old = process()
    node.do(lambda: first.sync({place: Wish(), v0[Hook.XDP]: NATIVE}))
    second, _ = process()
    node.do(lambda: second.sync({}))  # ends all of it
    assert [] == node.chain(place)

    node.do(lambda: first.sync({place: Wish(), v0[Hook.XDP]: NATIVE}))
    assert [old["kpb_tc_ingress"]] == node.chain(place)
    assert ("native", old["kpb_xdp"]) == xdp(node)
    assert {place, v0[Hook.XDP]} == set(first.reattached)


def test_a_device_that_goes_is_forgotten(node, process, v0):
    """Its programs went with it; nothing is refused and nothing raised."""
    hooks, _ = process()
    places = {place: NATIVE for place in v0.values()}
    node.do(lambda: hooks.sync(places))
    node.ip("link del v0")
    node.do(lambda: hooks.sync({}))
    assert [] == hooks.attached
    assert ["lo"] == [name for _, name in node.do(socket.if_nameindex)]
