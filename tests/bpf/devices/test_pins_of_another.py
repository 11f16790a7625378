# SPDX-License-Identifier: Apache-2.0
"""Pins of devices that a proxy of another network namespace made at the paths of ours.

Devices of two namespaces have the same numbers, and the paths go by number.
"""

from contextlib import ExitStack

import pytest

from kubeproxy_bpf.dataplane.devicelink import XDP_GENERIC
from kubeproxy_bpf.dataplane.devices import Wish
from kubeproxy_bpf.dataplane.places import Hook, Place
from kubeproxy_bpf.libbpf import AttachType, Link
from tests.bpf.devices.process import Process, places

pytestmark = pytest.mark.root


@pytest.fixture
def process(node, load, pins):
    """What we have of the devices."""
    made = Process(node, load(), pins)
    yield made
    made.end()


@pytest.fixture
def theirs(node, load, pins):
    """Pins another's link at a path of ours; gives the link."""
    with ExitStack() as undo:
        elsewhere = node.wire("v9", far="eth9")

        def put(pin):
            program = load().programs["kpb_tc_ingress"]
            link = node.do(lambda: Link.create(program.fd, elsewhere, AttachType.TCX_INGRESS))
            undo.enter_context(link)
            pin.unlink(missing_ok=True)
            link.pin(pin)
            return link

        yield put


def pinned_id(pin):
    with Link.open_pinned(pin) as link:
        return link.info().id


def test_a_link_of_another_is_neither_ended_nor_replaced(node, process, theirs, pins):
    """Without the directory a device gets a link that nothing pins, to be pinned later."""
    index = node.wire("v0")
    pin = pins / f"dev-{index}-ingress"
    link = theirs(pin)
    process.hooks.may_pin = lambda: False
    process.sync(*places(index, "v0"))

    assert node.chain(places(index, "v0")[0]) == [process.ingress]
    assert link.info().ifindex
    assert pinned_id(pin) == link.info().id
    assert pin in [path for path, _ in process.hooks.pins()]


def test_xdp_of_another_is_neither_ended_nor_given_our_program(node, process, load, pins):
    """Numbers of devices say nothing; whose directory it is does."""
    index = node.wire("v0")
    place = Place(index, "v0", Hook.XDP)
    other = load().programs["kpb_xdp"]
    pin = pins / f"dev-{index}-xdp-generic"
    wish = Wish(xdp_mode="generic")
    process.sync(place, wish=wish)
    assert pin.exists()
    process.sync()
    elsewhere = node.wire("v9", far="eth9")
    with node.do(lambda: Link.create(other.fd, elsewhere, AttachType.XDP, XDP_GENERIC)) as link:
        link.pin(pin)
        process.hooks.may_pin = lambda: False
        process.sync(place, wish=wish)
        assert process.hooks.attached == [place]
        assert link.info().ifindex == elsewhere
        assert link.info().prog_id == other.info().id
        assert pinned_id(pin) == link.info().id


def test_a_pin_of_another_stays_when_our_device_goes(node, process, theirs, pins):
    """Also where ours was at its path before."""
    index = node.wire("v0")
    process.sync(*places(index, "v0"))
    pin = pins / f"dev-{index}-ingress"
    link = theirs(pin)
    process.sync()

    assert node.chain(places(index, "v0")[0]) == []
    assert pinned_id(pin) == link.info().id
    assert not (pins / f"dev-{index}-egress").exists()
