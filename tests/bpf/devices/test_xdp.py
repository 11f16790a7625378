# SPDX-License-Identifier: Apache-2.0
"""XDP at real devices: native where a driver has it, and never a reason to fail."""

import errno

import pytest

from kubeproxy_bpf.dataplane.devices import DeviceHooks, Wish
from kubeproxy_bpf.dataplane.places import Hook, Place
from kubeproxy_bpf.libbpf import Link

pytestmark = pytest.mark.root

NATIVE, GENERIC = Wish(xdp_mode="native"), Wish(xdp_mode="generic")


@pytest.fixture
def process(node, load, pins):
    made = []

    def start():
        programs = load().programs
        made.append(node.do(lambda: DeviceHooks(programs, pins)))
        return made[-1], programs["kpb_xdp"].info().id

    yield start
    for hooks in made:
        hooks.close()


@pytest.fixture
def place(node):
    return Place(node.wire("v0"), "v0", Hook.XDP)


def mode(node, name):
    """What the device says: the mode and the program."""
    xdp = node.link(name).get("xdp", {"mode": 0, "prog": {"id": 0}})
    return {0: "none", 1: "native", 2: "generic"}[xdp["mode"]], xdp["prog"]["id"]


def test_a_veth_runs_it_native(node, process, place):
    """And its mode is told."""
    hooks, program = process()
    node.do(lambda: hooks.sync({place: NATIVE}))

    assert ("native", program) == mode(node, "v0")
    assert {"v0": "native"} == hooks.xdp_modes()


def test_loopback_has_no_native_mode(node, process):
    """The refusal is told by place and in the modes; TC on the same device does not suffer."""
    hooks, _ = process()
    tc, xdp = Place(1, "lo", Hook.INGRESS), Place(1, "lo", Hook.XDP)
    node.do(lambda: hooks.sync({tc: Wish(), xdp: NATIVE}))

    assert [tc] == hooks.attached
    assert [xdp] == list(hooks.refused)
    assert {"lo": "none"} == hooks.xdp_modes()


def test_a_device_that_refused_is_not_asked_again(node, process, monkeypatch):
    """Some drivers restart for an attempt: only another wish is another attempt."""
    hooks, _ = process()
    xdp = Place(1, "lo", Hook.XDP)
    asked = []
    create = Link.create
    monkeypatch.setattr(Link, "create", lambda *args, **kw: asked.append(1) or create(*args, **kw))
    for wish in (NATIVE, NATIVE, GENERIC, GENERIC):
        node.do(lambda: hooks.sync({xdp: wish}))

    assert 3 == len(asked)  # two programs natively, then one that it takes
    assert {"lo": "generic"} == hooks.xdp_modes()


def test_a_restart_swaps_the_program_inside_the_link(node, process, place, pins):
    """The device keeps its mode and sees no moment without a program."""
    first, _ = process()
    node.do(lambda: first.sync({place: NATIVE}))
    with Link.open_pinned(pins / f"dev-{place.ifindex}-xdp-native") as link:
        before = link.info().id
    first.close()
    second, program = process()
    node.do(lambda: second.sync({place: NATIVE}))

    assert ("native", program) == mode(node, "v0")
    with Link.open_pinned(pins / f"dev-{place.ifindex}-xdp-native") as link:
        assert before == link.info().id


def test_another_mode_after_a_restart_takes_the_place_of_the_old(node, process, place, pins):
    """A device has one program and one mode."""
    first, _ = process()
    node.do(lambda: first.sync({place: NATIVE}))
    first.close()
    second, program = process()
    node.do(lambda: second.sync({place: GENERIC}))

    assert ("generic", program) == mode(node, "v0")
    assert [f"dev-{place.ifindex}-xdp-generic"] == [path.name for path in pins.iterdir()]


def test_switched_off_after_a_restart_it_is_ended(node, process, place, pins):
    """What nobody wants any more goes."""
    first, _ = process()
    node.do(lambda: first.sync({place: NATIVE}))
    first.close()
    second, _ = process()
    node.do(lambda: second.sync({}))

    assert ("none", 0) == mode(node, "v0")
    assert [] == list(pins.iterdir())


def test_a_foreign_program_is_left_alone(node, process, place, load, pins):
    """There is one XDP program per device: who came first stays."""
    theirs = load().programs["kpb_xdp"]
    theirs.pin(pins / "foreign")
    node.ip(f"link set dev v0 xdpdrv pinned {pins / 'foreign'}")
    hooks, _ = process()
    node.do(lambda: hooks.sync({place: NATIVE}))

    assert ("native", theirs.info().id) == mode(node, "v0")
    assert {"v0": "none"} == hooks.xdp_modes()


def test_what_is_removed_is_put_back(node, process, place, pins):
    """Counted like the programs of TC."""
    hooks, program = process()
    node.do(lambda: hooks.sync({place: NATIVE}))
    with Link.open_pinned(pins / f"dev-{place.ifindex}-xdp-native") as link:
        link.detach()
    node.do(lambda: hooks.sync({place: NATIVE}))

    assert ("native", program) == mode(node, "v0")
    assert {place: 1} == hooks.reattached


def test_a_driver_without_fragments_gets_the_other_program(node, load, pins, place, monkeypatch):
    """Some refuse a program that says it takes frames of several buffers."""
    programs = load().programs
    refused = programs["kpb_xdp"].fd
    create = Link.create

    def picky(prog_fd, *args, **more):
        if prog_fd == refused:
            raise OSError(errno.EOPNOTSUPP, "no fragments here")
        return create(prog_fd, *args, **more)

    monkeypatch.setattr(Link, "create", picky)
    hooks = node.do(lambda: DeviceHooks(programs, pins))
    node.do(lambda: hooks.sync({place: NATIVE}))
    hooks.close()

    assert ("native", programs["kpb_xdp_linear"].info().id) == mode(node, "v0")
    assert {} == hooks.refused
