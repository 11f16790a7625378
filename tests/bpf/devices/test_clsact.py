# SPDX-License-Identifier: Apache-2.0
"""Packet programs by clsact filters, as on kernels without tcx: ours alone are touched."""

import pytest

from kubeproxy_bpf.dataplane.clsact import ClsactFilters
from kubeproxy_bpf.dataplane.devices import DeviceHooks, Wish
from kubeproxy_bpf.dataplane.places import Hook, Place

pytestmark = pytest.mark.root


class Process:
    """A process of ours on a kernel without tcx."""

    def __init__(self, node, bpf_object, pins):
        self.node = node
        self.hooks = node.do(lambda: DeviceHooks(bpf_object.programs, pins, tcx=False))
        info = bpf_object.programs["kpb_tc_ingress"].info()
        self.name = f"kpb_tc_ingress:{info.id}"
        self.id = info.id

    def sync(self, *places):
        self.node.do(lambda: self.hooks.sync({place: Wish() for place in places}))


@pytest.fixture
def process(node, load, pins):
    return lambda: Process(node, load(), pins)


@pytest.fixture
def place(node):
    return Place(node.wire("v0"), "v0", Hook.INGRESS)


@pytest.fixture
def foreign(node, load, pins):
    """Adds a filter of somebody else, by a program of theirs."""

    def add(priority, handle, direction="ingress"):
        path = pins / f"foreign-{priority}-{handle}"
        program = load().programs["kpb_tc_ingress"]
        program.pin(path)
        words = f"tc filter add dev v0 {direction} prio {priority} handle {handle} bpf da"
        node.run(*words.split(), "pinned", str(path))
        return program.info().id

    return add


def ids(node, place):
    """The programs of the filters at a place, in order."""
    words = " ".join(node.filters(place)).split()
    return [int(words[at + 1]) for at, word in enumerate(words) if word == "id"]


def test_a_filter_is_first_and_alone_is_ours(node, process, place, foreign):
    """Priority 1; within it the newest filter comes first, so theirs of the same is behind ours."""
    node.run("tc", "qdisc", "add", "dev", "v0", "clsact")
    theirs = [foreign(1, 5), foreign(9, 1)]
    ours = process()
    ours.sync(place)

    assert [ours.id, *theirs] == ids(node, place)
    assert ours.name in node.filters(place)[0]


def test_a_restart_swaps_the_program_of_the_filter(node, process, place):
    """There is one filter of ours at any time."""
    first = process()
    first.sync(place)
    first.hooks.close()
    second = process()
    second.sync(place)

    assert [second.id] == ids(node, place)
    assert not second.hooks.reattached


def test_a_deleted_filter_is_put_back(node, process, place):
    """Also if its qdisc went with it."""
    ours = process()
    ours.sync(place)
    node.run(*"tc qdisc del dev v0 clsact".split())
    ours.sync(place)
    ours.sync(place)

    assert [ours.id] == ids(node, place)
    assert {place: 1} == ours.hooks.reattached


def test_a_filter_in_front_is_overtaken_and_left_alone(node, process, place, foreign):
    """A newer filter of our priority would come first."""
    ours = process()
    ours.sync(place)
    theirs = foreign(1, 5)
    assert [theirs, ours.id] == ids(node, place)
    ours.sync(place)

    assert [ours.id, theirs] == ids(node, place)
    assert {place: 1} == ours.hooks.reattached


def test_the_qdisc_goes_with_our_last_filter(node, process, place):
    """If we made it and nobody else uses it."""
    ours = process()
    egress = place._replace(hook=Hook.EGRESS)
    ours.sync(place, egress)
    ours.sync(egress)
    assert "clsact" in node.run(*"tc qdisc show dev v0".split())
    ours.sync()

    assert "clsact" not in node.run(*"tc qdisc show dev v0".split())


def test_a_qdisc_that_others_use_stays(node, process, place, foreign):
    """Their filters with it, in the other direction too."""
    ours = process()
    ours.sync(place)
    foreign(3, 1, "egress")
    ours.sync()

    assert [] == ids(node, place)
    assert 1 == len(ids(node, place._replace(hook=Hook.EGRESS)))


def test_a_qdisc_that_was_there_stays(node, process, place):
    """Whoever made it may be about to use it."""
    node.run(*"tc qdisc add dev v0 clsact".split())
    ours = process()
    ours.sync(place)
    ours.sync()

    assert "clsact" in node.run(*"tc qdisc show dev v0".split())


def test_filters_of_an_earlier_process_are_ended(node, process, place, foreign):
    """Where they are not wanted any more; others' stay."""
    first = process()
    first.sync(place)
    theirs = foreign(7, 1)
    second = process()
    second.sync()

    assert [theirs] == ids(node, place)


def test_a_cleanup_leaves_no_empty_qdisc(node, process, place, foreign):
    """It does not know who made them; one that others use stays, with their filters."""
    other = Place(node.wire("v1", "eth1"), "v1", Hook.INGRESS)
    process().sync(place, other)
    foreign(5, 1, "egress")

    assert 2 == node.do(ClsactFilters().remove_all)
    assert "clsact" in node.run(*"tc qdisc show dev v0".split())
    assert "clsact" not in node.run(*"tc qdisc show dev v1".split())
    assert [] == ids(node, place)


def test_a_device_that_is_gone_is_forgotten(node, process, place):
    """Without a word of warning from netlink."""
    ours = process()
    ours.sync(place)
    node.ip("link del v0")
    ours.sync(place)
    ours.sync()

    assert [] == ours.hooks.attached
    assert not ours.hooks.reattached


def test_a_restart_takes_the_first_place_again(node, process, place, foreign):
    """Somebody came before us while no process of ours ran."""
    first = process()
    first.sync(place)
    first.hooks.close()
    theirs = foreign(1, 5)
    second = process()
    second.sync(place)

    assert [second.id, theirs] == ids(node, place)


def test_a_filter_with_another_program_is_replaced(node, process, place):
    """Ours by priority and handle, but not what this process has put there."""
    ours, other = process(), process()
    ours.sync(place)
    other.sync(place)
    assert [other.id] == ids(node, place)
    ours.sync(place)

    assert [ours.id] == ids(node, place)
    assert {place: 1} == ours.hooks.reattached
