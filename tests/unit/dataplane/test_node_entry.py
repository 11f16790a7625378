# SPDX-License-Identifier: Apache-2.0
"""The programs may read the node's entry while it is written: nothing they see is wrong."""

import struct

import pytest
from structlog.testing import capture_logs

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.dataplane.node import NodeFacts, NodeMap
from kubeproxy_bpf.instance import object_path
from kubeproxy_bpf.libbpf import BpfObject
from kubeproxy_bpf.model.addresses import parse_prefix

WORD = 4
PREFIX = struct.Struct("16s16s")
AT_SERVICES = 32 + 2 * PREFIX.size


class MemoryMap:
    """One element in memory; remembers every value that it had."""

    def __init__(self, size):
        self.name = "kpb_node"
        self.history = [bytes(size)]

    def lookup(self, key):
        return self.history[-1]

    def update(self, key, value, flags=0):
        assert len(self.history[0]) == len(value)
        self.history.append(value)


@pytest.fixture(scope="module")
def btf():
    bpf_object = BpfObject.open(object_path("packets.bpf.o"))
    try:
        yield bpf_object.btf
    finally:
        bpf_object.close()


@pytest.fixture
def memory(btf):
    return MemoryMap(btf.structs["node"].size)


@pytest.fixture
def node_map(memory, btf):
    return NodeMap(memory, btf)


def inside(raw, address):
    """Which prefixes an address is in, as the programs look: (pods, services)."""
    number = int.from_bytes(address, "big")

    def matches(at):
        prefix, mask = (int.from_bytes(part, "big") for part in PREFIX.unpack_from(raw, at))
        return number & mask == prefix

    def masked(at):
        return PREFIX.unpack_from(raw, at)[1] != bytes(16)

    pods = any(matches(at) and masked(at) for at in (32, 64))
    (count,) = struct.unpack_from("=I", raw, AT_SERVICES + 4 * PREFIX.size)
    services = any(matches(AT_SERVICES + n * PREFIX.size) for n in range(count))
    return pods, services


def cidrs(*texts):
    return tuple(map(parse_prefix, texts))


def test_the_entry_holds_what_it_was_told(memory, node_map):
    """Addresses stand as they are; an address is in a prefix exactly by address and mask."""
    node_map.write(
        NodeFacts(
            parse_address("192.0.2.1"),
            None,
            parse_prefix("10.244.0.0/16"),
            None,
            cidrs("10.96.0.0/12", "fd00:10:96::/112"),
        )
    )
    raw = memory.history[-1]

    assert parse_address("192.0.2.1") + bytes(16) == raw[:32]
    assert (True, False) == inside(raw, parse_address("10.244.255.255"))
    assert (False, True) == inside(raw, parse_address("10.111.0.1"))
    assert (False, True) == inside(raw, parse_address("fd00:10:96::ffff"))
    for text in ("10.245.0.0", "10.112.0.0", "fd00:10:96:0:0:0:1:0", "::10.244.0.1"):
        assert (False, False) == inside(raw, parse_address(text))


def test_what_is_known_is_not_written_again(memory, node_map):
    """A change of anything else costs no write."""
    facts = NodeFacts(parse_address("192.0.2.1"), service_cidrs=cidrs("10.96.0.0/12"))
    node_map.write(facts)
    written = len(memory.history)
    node_map.write(facts)

    assert written == len(memory.history)


def test_cidrs_without_room_are_named_once(memory, node_map):
    """The programs hold four; the narrowest stay out and are then routed as any address."""
    facts = NodeFacts(service_cidrs=cidrs(*(f"10.{n}.0.0/16" for n in range(5))))
    with capture_logs() as logs:
        node_map.write(facts)
        node_map.write(facts)

    assert ["service_cidrs_left_out"] == [entry["event"] for entry in logs]
    assert (False, True) == inside(memory.history[-1], parse_address("10.3.0.0"))
    assert (False, False) == inside(memory.history[-1], parse_address("10.4.0.0"))


CHANGES = [
    (cidrs("10.96.0.0/16"), cidrs("10.96.0.0/12", "fd00:10:96::/112")),
    (cidrs("10.96.0.0/12", "fd00:10:96::/112"), cidrs("fd00:10:96::/112")),
    (cidrs("fd00:10:96::/112"), ()),
    (cidrs("fd00:10:96::/64", "10.0.0.0/8"), cidrs("10.0.0.0/8", "fd00:10:96::/64")),
]
ADDRESSES = [
    *("10.96.0.1", "10.100.0.1", "192.0.2.1", "0.0.0.0", "255.255.255.255"),
    *("fd00:10:96::1", "fd00:10:96:0:1::", "fd00:10:97::1", "::", "::1", "2001:db8::1"),
]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_torn_view_matches_no_address_of_neither_prefix(memory, node_map, before, after):
    """Cut a write at any word, in either direction: no address is inside that was in neither."""
    pods = parse_prefix("10.244.0.0/16"), parse_prefix("10.244.7.0/24")
    node_map.write(NodeFacts(None, None, pods[0], None, before))
    first = len(memory.history) - 1
    node_map.write(NodeFacts(parse_address("192.0.2.1"), None, pods[1], None, after))
    views = memory.history[first:]
    old, new = views[0], views[-1]

    for earlier, later in zip(views, views[1:]):
        for cut in range(0, len(old) + 1, WORD):
            for torn in (later[:cut] + earlier[cut:], earlier[:cut] + later[cut:]):
                for text in (*ADDRESSES, "10.244.7.1", "10.244.8.1"):
                    address = parse_address(text)
                    for now, was, will in zip(*(inside(raw, address) for raw in (torn, old, new))):
                        assert now <= (was or will), (text, cut)
