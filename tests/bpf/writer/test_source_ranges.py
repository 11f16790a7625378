# SPDX-License-Identifier: Apache-2.0
"""Source ranges on a real trie: what the planner lets in is what a program finds."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from kubeproxy_bpf.dataplane.fake import FakeDataplane
from kubeproxy_bpf.dataplane.program import Programmer
from kubeproxy_bpf.dataplane.trace import dump_text
from kubeproxy_bpf.dataplane.writer import Writer
from kubeproxy_bpf.errors import MapFull
from kubeproxy_bpf.libbpf import BpfMap, BpfObject
from kubeproxy_bpf.model.types import Changes, Desired, Prefix
from kubeproxy_bpf.plan.records import FrontendKey
from tests.plan_objects import complete, desired, ip, load_balancer, port_id, prefixes

pytestmark = pytest.mark.root

ROOM = 4
WEB, API = port_id("web"), port_id("api")
VIP, VIP2 = load_balancer("198.51.100.1"), load_balancer("198.51.100.2")


class Ranges:
    """The map of source ranges, and a program that looks into it."""

    def __init__(self, image: Path) -> None:
        self.object = BpfObject.open(image)
        for bpf_map in self.object.maps.values():
            if bpf_map.max_entries > ROOM:
                bpf_map.max_entries = ROOM
        self.object.load()
        self.btf = self.object.btf
        self.map: BpfMap = self.object.maps["kpb_source_ranges"].map

    def let_in(self, service: int, source: str) -> bool:
        """Ask the program."""
        question = bytes(14) + struct.pack("=I16s", service, ip(source))
        return self.object.programs["t_allowed"].test_run(question).retval == 1

    def close(self) -> None:
        self.map.close()
        self.object.close()


@pytest.fixture(scope="module")
def ranges_image(compiled: Callable[[str], Path]) -> Path:
    return compiled("ranges")


@pytest.fixture
def ranges(ranges_image: Path) -> Iterator[Ranges]:
    made = Ranges(ranges_image)
    yield made
    made.close()


@pytest.fixture
def writer(kernel: Any, ranges: Ranges) -> Iterator[Writer]:
    """All maps of the sockets, and the one of the packets."""
    maps = {**kernel.maps, "kpb_source_ranges": ranges.map}
    made = Writer(maps, kernel.btf, packet_btf=ranges.btf)
    yield made
    made.close()


def balanced(*ranges: str) -> Desired:
    return desired([VIP], ["10.244.1.1"])._replace(source_ranges=prefixes(*ranges))


async def test_a_program_finds_who_is_let_in(writer: Writer, ranges: Ranges) -> None:
    """Prefixes of any length, each for its own service, of both families; and nobody else."""
    six = Prefix(ip("2001:db8::"), 32)
    api = desired([VIP2], ["10.244.1.2"])._replace(
        source_ranges=(*prefixes("10.0.0.7/32"), six),
    )
    programmer = Programmer(writer)
    outcome = await programmer.apply(complete({WEB: balanced("192.0.2.0/25"), API: api}))
    frontends = (await writer.dump()).frontends
    web, other = (frontends[FrontendKey(*spec[:3])].service for spec in (VIP, VIP2))

    assert outcome.clean
    asked = ("192.0.2.1", "192.0.2.127", "192.0.2.128", "10.0.0.7", "10.0.0.6", "2001:db8::1")
    assert [True, True] + [False] * 4 == [ranges.let_in(web, source) for source in asked]
    assert [False] * 3 + [True, False, True] == [ranges.let_in(other, source) for source in asked]


async def test_the_writer_does_what_the_fake_does(writer: Writer) -> None:
    """Added, exchanged, kept over a restart, and gone with the service."""
    fake = FakeDataplane(writer.capacity)
    both = [Programmer(writer), Programmer(fake)]
    steps = [
        complete({WEB: balanced("192.0.2.0/25", "10.0.0.0/8")}),
        Changes({WEB: balanced("192.0.2.0/24", "10.0.0.0/8")}, {}),
        Changes({WEB: None}, {VIP.address: 0}),
    ]
    for changes in steps:
        for programmer in both:
            await programmer.start()
            await programmer.apply(changes)
            await programmer.settled()
        text = dump_text(await writer.dump())
        assert fake.dump_text() == text
        assert changes.services[WEB] is None or "source_range " in text


async def test_a_full_trie_comes_back_with_its_key(writer: Writer) -> None:
    """The kernel's refusal is named, and repeated until there is room."""
    programmer = Programmer(writer)
    many = [f"10.{n}.0.0/16" for n in range(ROOM)]
    await programmer.apply(complete({WEB: balanced(*many)}))
    # More than the planner would ask for, as if another had written to the map.
    plan = programmer.planner.plan(Changes({}, {}))
    (key, value), *_ = (await writer.dump()).source_ranges.items()
    plan.ranges_added.append((key._replace(service=9), value))
    applied = await writer.apply(plan)

    assert [MapFull] == [type(failed.error) for failed in applied.failed]
    assert "source_ranges" == applied.failed[0].map


async def test_vips_that_go_linger_in_the_kernel(writer: Writer) -> None:
    """Hundreds at once and one after the other leave the same entries as in the fake."""
    fake = FakeDataplane(writer.capacity)
    addresses = [ip(f"10.96.1.{n}") for n in range(40)]
    programmers = [Programmer(writer), Programmer(fake)]
    for flags in (1, 0, 2, 0):
        for programmer in programmers:
            await programmer.apply(Changes({}, dict.fromkeys(addresses, flags)))
    lingering = programmers[0].lingering
    for programmer in programmers:
        await programmer.forget(dict(list(lingering.items())[:7]))
        await programmer.settled()

    assert fake.dump_text() == dump_text(await writer.dump())
    assert len(addresses) - 7 == len((await writer.dump()).vips)
