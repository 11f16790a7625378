# SPDX-License-Identifier: Apache-2.0
"""Invariants under random packets: the same ones in each run, tens of thousands of them.

Real packets of all kinds are damaged in some bytes, cut or made longer, and sent through a random
hook. What a program changes has to be a rewrite that a flow asks for, with the checksums as right
or as wrong as they were; everything else leaves as it came.
"""

from __future__ import annotations

import random
import socket
from typing import Callable, Iterator

import pytest
from scapy.layers.inet import ICMP, IPOption_NOP, fragment
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment

from kubeproxy_bpf.dataplane.flows import Tuple

from . import frames, wire
from .conversation import Conversation
from .frames import IP, Ends, Packet, Raw
from .hooks import Hooks, Seen, Verdict
from .node import (
    LOCAL_POD,
    LOCAL_POD_2,
    MAC,
    NODE,
    OUTSIDE,
    POD,
    REMOTE_POD,
    UPLINK,
    UPLINK_SECOND,
)
from .test_limits import assert_paired
from .world import (
    CLUSTER_IP,
    EXTERNAL_LOCAL,
    LOAD_BALANCER,
    NODE_PORT,
    PacketWorld,
)

pytestmark = pytest.mark.root

PACKETS, SEED = 20000, 20261
VIPS = ("10.96.0.1", "fd00:10:96::1")
BALANCERS = ("198.51.100.9", "2001:db8::9")
NUMBERS = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP, "SCTP": 132}
PROTOCOLS = tuple(NUMBERS)


@pytest.fixture
def services(world: PacketWorld) -> PacketWorld:
    """Services of all kinds, of all protocols and both families."""
    world.node(service_cidrs=["10.96.0.0/16", "fd00:10:96::/112"])
    for family in (0, 1):
        local, remote = [LOCAL_POD[family]], [REMOTE_POD[family]]
        for protocol in NUMBERS.values():
            world.service(
                (NODE_PORT, NODE[family], 30080),
                (CLUSTER_IP, VIPS[family], 80),
                local=local,
                remote=remote,
                protocol=protocol,
                port=30080,
            )
            world.service(
                (LOAD_BALANCER, BALANCERS[family], 80),
                local=local,
                remote=remote,
                protocol=protocol,
                flags=EXTERNAL_LOCAL,
                affinity_s=60,
            )
            world.service((NODE_PORT, NODE[family], 30081), protocol=protocol, flags=0)
    return world


def corpus() -> list[tuple[str, bytes]]:
    """(Device, frame) of packets to VIPs, from backends and of no concern, of every kind."""
    found: list[tuple[str, Packet]] = []
    for family in (0, 1):
        to = [(NODE[family], 30080), (VIPS[family], 80), (BALANCERS[family], 80)]
        to += [(NODE[family], 30081), (VIPS[family], 81), (LOCAL_POD[family], 30080)]
        for address, port in to:
            for source, device in ((OUTSIDE, UPLINK), (LOCAL_POD_2, POD), (LOCAL_POD, POD)):
                ends = Ends(source[family], 40000, address, port)
                found += [(device, content) for content in kinds(ends)]
    return [(device, frames.frame(content, MAC[device])) for device, content in found]


def kinds(ends: Ends) -> Iterator[Packet]:
    """Packets of all kinds from one end to the other."""
    for protocol in PROTOCOLS:
        yield frames.packet(protocol, ends)
    yield frames.packet("TCP", ends, flags="A", payload=b"")
    yield frames.packet("UDP", ends, ttl=1)
    quoted = frames.packet("UDP", ends.reply(), payload=bytes(40))
    if ":" in ends.source:
        yield frames.network(ends) / IPv6ExtHdrDestOpt() / frames.transport("TCP", ends)
        part = IPv6ExtHdrFragment(id=5, m=1)
        yield frames.network(ends) / part / frames.transport("UDP", ends, payload=bytes(64))
        yield frames.network(ends) / ICMPv6DestUnreach(code=1) / Raw(frames.raw(quoted))
        return
    yield frames.packet("UDP", ends, chksum=0)
    options = [IPOption_NOP()] * 8
    yield frames.network(ends, options=options) / frames.transport("TCP", ends)
    whole = IP(frames.raw(frames.packet("UDP", ends, payload=bytes(300))))
    yield from fragment(whole, 200)
    yield frames.network(ends) / ICMP(type=3, code=4) / Raw(frames.raw(quoted))


def damage(dice: random.Random, frame: bytes) -> bytes:
    """The frame as it is, or with wrong bytes, cut, or longer."""
    data = bytearray(frame)
    for _ in range(dice.choice((0, 0, 1, 1, 2, 4))):
        # Mostly in headers; the kind of frame stays, since a test-run goes by it.
        at = dice.randrange(14, min(len(data), 100))
        data[at] = dice.choice((0, 1, 0xFF, dice.randrange(256), data[at] ^ 1 << dice.randrange(8)))
    change = dice.random()
    if change < 0.1:
        del data[dice.randrange(min(54, len(data)), len(data) + 1) :]
    elif change < 0.2:
        data += dice.randbytes(dice.randrange(1, 40))
    return bytes(data)


def renumber(dice: random.Random, frame: bytes) -> bytes:
    """Another client port, with the checksum for it, so that new flows come."""
    read = wire.plain(frame)
    if read is None or read.protocol == wire.SCTP or read.unchecked or dice.random() < 0.5:
        return frame
    at = frame.index(read.segment[:8])
    check = at + (16 if read.protocol == wire.TCP else 6)
    moved = dice.randrange(8)
    port = int.from_bytes(frame[at : at + 2], "big") + moved
    old = int.from_bytes(frame[check : check + 2], "big")
    new = old - moved if old > moved else old - moved + 0xFFFF
    data = bytearray(frame)
    data[at : at + 2] = port.to_bytes(2, "big")
    data[check : check + 2] = (new or 0xFFFF).to_bytes(2, "big")
    return bytes(data)


def test_random_packets(hooks: Hooks, services: PacketWorld) -> None:
    """No packet, however strange, is changed but by a flow, nor gets a checksum less right."""
    dice = random.Random(SEED)
    packets = corpus()
    changed = 0
    for number in range(PACKETS):
        if number % 2000 == 1999:
            for key in dice.sample(sorted(services.flows()), 50):
                services.expire(key)
        device, frame = dice.choice(packets)
        sent = damage(dice, renumber(dice, frame))
        hook: Callable[[str, bytes], Seen] = dice.choice(
            (hooks.ingress, hooks.ingress, hooks.xdp, hooks.egress)
        )
        where = dice.choice((device, device, device, UPLINK, UPLINK_SECOND, POD))
        seen = hook(where, sent)
        if seen.data == sent:
            continue
        changed += 1
        judge(services, sent, seen, f"packet {number}: {hook.__name__} {where} {sent.hex()}")
    assert changed > PACKETS // 10
    assert services.count("MALFORMED") > PACKETS // 100
    assert not services.count("HALF_STATE")
    assert_paired(services)


def test_xdp_does_what_tc_does(hooks: Hooks, services: PacketWorld) -> None:
    """XDP leaves a packet to TC, or makes of it what TC makes of it, next hop included."""
    dice = random.Random(SEED)
    packets = [frame for device, frame in corpus() if device == UPLINK]
    early = 0
    for number in range(PACKETS // 4):
        sent = damage(dice, renumber(dice, dice.choice(packets)))
        first = hooks.xdp(UPLINK, sent)
        then = hooks.ingress(UPLINK, sent)
        what = f"packet {number}: {sent.hex()}"
        if first == (Verdict.UNSPEC, sent) or first.verdict is Verdict.DROP:
            continue  # no flow: TC may choose another backend, for which there is a port
        early += 1
        left = Verdict.REDIRECT if first.verdict is Verdict.TX else first.verdict
        assert (left, first.data) == (then.verdict, then.data), what
    assert early > PACKETS // 40


def judge(world: PacketWorld, sent: bytes, seen: Seen, what: str) -> None:
    """A packet that was changed."""
    assert seen.verdict is not Verdict.DROP, what
    before, after = wire.plain(sent), wire.plain(seen.data)
    if before is None:
        return
    if after is None:  # port unreachable
        assert seen.verdict is Verdict.REDIRECT, what
        return
    if (after.source, after.destination) == (before.destination, before.source):  # a reset
        assert after.header_is_right and after.segment_is_right, what
        return
    assert after.header_is_right is before.header_is_right, what
    assert after.segment_is_right is before.segment_is_right, what
    assert after.content == before.content, what
    assert after.unchecked is before.unchecked, what
    flow = world.flow(Tuple(*before[:5]))
    assert flow is not None, what
    assert flow[2:6] == after[:4], what


def test_random_flows_come_back(hooks: Hooks, services: PacketWorld) -> None:
    """For whatever client, port, payload and Service: the answer is what the client expects."""
    dice = random.Random(SEED)
    for number in range(150):
        family, protocol = dice.randrange(2), dice.choice(PROTOCOLS)
        source = (
            f"2001:db8:86dd::{dice.randrange(1, 1 << 16):x}"
            if family
            else f"203.0.113.{dice.randrange(1, 255)}"
        )
        remote = dice.random() < 0.5
        index = 31000 + number
        backend = ((REMOTE_POD if remote else LOCAL_POD)[family], index)
        services.service(
            (NODE_PORT, NODE[family], index),
            **{"remote" if remote else "local": [backend[0]]},
            protocol=NUMBERS[protocol],
            port=index,
        )
        outer = Ends(source, dice.randrange(1, 65536), NODE[family], index)
        device = UPLINK if remote else POD
        talk = Conversation(
            hooks, protocol, outer, backend, UPLINK, device, NODE[family], direct=remote
        )
        talk.ask(payload=dice.randbytes(dice.randrange(200)))
        for _ in range(2):
            talk.answer(payload=dice.randbytes(dice.randrange(200)))
            fields = {"flags": "PA"} if protocol == "TCP" else {}
            talk.ask(payload=dice.randbytes(dice.randrange(200)), **fields)
