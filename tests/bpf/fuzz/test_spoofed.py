# SPDX-License-Identifier: Apache-2.0
"""Sources that nobody on the network can have, and errors and answers that match no flow.

Input routing drops the first kind, but a packet that is redirected never meets input routing.
"""

from __future__ import annotations

import pytest

from tests.bpf.packet.node import (
    LOCAL_POD,
    MAC,
    NODE,
    OUTSIDE,
    REMOTE_POD,
    UPLINK,
)
from tests.bpf.packet.world import NODE_PORT, PacketWorld

from . import craft
from .canary import Canary, canaries
from .corpus import BALANCERS, ELSEWHERE, LOOPBACK, SERVED, VIPS, errors
from .craft import ACK, RST, SCTP, SYN, TCP, UDP, Ends, frame, packed, packet, segment
from .driver import REDIRECT, UNSPEC, Trial
from .scene import MAC_OF_LO, Placed

pytestmark = pytest.mark.root

families = pytest.mark.parametrize("family", (0, 1), ids=("ipv4", "ipv6"))
both = pytest.mark.parametrize("program", ("kpb_tc_ingress", "kpb_xdp"), ids=("tc", "xdp"))
MARTIANS = (
    (*LOOPBACK, "127.8.9.10", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255"),
    ("::1", "::", "ff02::1", "ff0e::77"),
)
REMOTE_ONLY = 30177


@pytest.fixture
def served(world: PacketWorld) -> PacketWorld:
    """A node port whose one backend is remote: its packets leave by redirection."""
    for family in (0, 1):
        for protocol in (TCP, UDP):
            front = (NODE_PORT, NODE[family], REMOTE_ONLY)
            world.service(front, remote=[REMOTE_POD[family]], protocol=protocol)
    return world


def left_alone(trial: Trial, content: bytes) -> bool:
    sent = frame(content, MAC[UPLINK])
    return trial.run(sent) == (UNSPEC, sent)


def opener(ends: Ends, protocol: int) -> bytes:
    return packet(ends, protocol, segment(protocol, ends))


@families
@both
def test_sources_that_no_host_has_open_nothing(
    placed: Placed, served: PacketWorld, family: int, program: str
) -> None:
    """127/8, ::1, unspecified, multicast, broadcast: left to input routing, no trace of them."""
    trial = placed[program, UPLINK]
    client = Ends(packed(OUTSIDE[family]), 5000, packed(NODE[family]), REMOTE_ONLY)
    for protocol in (TCP, UDP):
        honest = trial.run(frame(opener(client, protocol), MAC[UPLINK]))
        assert honest is not None and honest.verdict == REDIRECT
    before = served.flows()
    for source in MARTIANS[family]:
        if (":" in source) != bool(family):
            continue
        for protocol in (TCP, UDP, SCTP):
            for address, port in ((NODE, REMOTE_ONLY), (VIPS, 80), (VIPS, 81), (BALANCERS, 80)):
                ends = Ends(packed(source), 5000, packed(address[family]), port)
                assert left_alone(trial, opener(ends, protocol)), (source, address, protocol)
    assert served.flows() == before


@families
@both
def test_the_nodes_own_address_comes_from_nowhere_else(
    placed: Placed, served: PacketWorld, family: int, program: str
) -> None:
    """From the network it opens nothing, nor follows what the host itself says by loopback."""
    own = packed(NODE[family])
    for source, port in ((own, 6000), (own, REMOTE_ONLY)):  # the second is LAND
        ends = Ends(source, port, own, REMOTE_ONLY)
        for protocol in (TCP, UDP):
            assert left_alone(placed[program, UPLINK], opener(ends, protocol))
    assert not served.flows()
    for protocol in (TCP, UDP):
        ends = Ends(own, 6001, own, REMOTE_ONLY)
        hosts = placed["kpb_tc_ingress", "lo"].run(frame(opener(ends, protocol), MAC_OF_LO))
        assert hosts is not None and hosts.verdict == REDIRECT
        flows = served.flows()
        assert left_alone(placed[program, UPLINK], opener(ends, protocol))
        assert served.flows() == flows


@families
@both
def test_answers_to_nobody_are_nothing(
    placed: Placed, served: PacketWorld, family: int, program: str
) -> None:
    """What looks like a backend's answer and matches no flow is neither changed nor remembered."""
    for backend, port in ((REMOTE_POD, 8080), (LOCAL_POD, 8080), (BALANCERS, 80)):
        for client in (OUTSIDE, NODE):
            for client_port in (20000, 20100, 40000, SERVED + 5):
                ends = Ends(packed(backend[family]), port, packed(client[family]), client_port)
                answers = [packet(ends, TCP, craft.tcp(ends, SYN | ACK))]
                answers += [packet(ends, TCP, craft.tcp(ends, RST)), opener(ends, UDP)]
                for content in answers:
                    assert left_alone(placed[program, UPLINK], content)
    assert not served.flows()


@families
@both
def test_errors_about_nothing_are_left_alone(
    placed: Placed, served: PacketWorld, family: int, program: str
) -> None:
    """An ICMP error whose quote belongs to no flow makes and changes nothing."""
    for about, port in ((NODE, REMOTE_ONLY), (VIPS, 80), (OUTSIDE, 40000), (ELSEWHERE, 80)):
        ends = Ends(packed(NODE[family]), 20000, packed(about[family]), port)
        for quoted in (ends, ends.reply()):
            for content in errors(quoted):
                assert left_alone(placed[program, UPLINK], content)
    assert not served.flows()


@both
def test_mapped_addresses_are_no_ipv6(placed: Placed, served: PacketWorld, program: str) -> None:
    """An IPv6 header with mapped addresses passes for no packet of IPv4."""
    mapping = bytes(10) + b"\xff\xff"
    source, node = mapping + packed(OUTSIDE[0]), mapping + packed(NODE[0])
    for ends in (
        Ends(source, 7000, node, REMOTE_ONLY),
        Ends(source, 7000, packed(NODE[1]), REMOTE_ONLY),
        Ends(packed(OUTSIDE[1]), 7000, node, REMOTE_ONLY),
    ):
        for protocol in (TCP, UDP):
            assert left_alone(placed[program, UPLINK], opener(ends, protocol))
    assert not served.flows()


@families
def test_a_forged_error_ends_no_flow(placed: Placed, served: PacketWorld, family: int) -> None:
    """Whoever it claims to be from: it is translated, as by any router, and the flow lives on."""
    living = [each for each in canaries(placed, served) if each.family == family]
    lives = {key: (flow.state, flow.flags) for key, flow in served.flows().items()}
    for canary in living:
        for sender in (ELSEWHERE, OUTSIDE, NODE):
            for content in forged(canary, packed(sender[family])):
                placed["kpb_tc_ingress", UPLINK].run(frame(content, MAC[UPLINK]))
        canary.goes_on()
    assert {k: (f.state, f.flags) for k, f in served.flows().items()} == lives


def forged(canary: Canary, sender: bytes) -> list[bytes]:
    """Errors about the client's packets, and about the answers, in somebody's name."""
    found = []
    for quoted in (canary.outer, canary.outer.reply()):
        ends = Ends(sender, 0, quoted.source, 0)
        quote = opener(quoted, canary.protocol)
        kinds = ((3, 3), (3, 4), (11, 0)) if len(sender) == 4 else ((1, 4), (2, 0), (3, 0))
        number = craft.ICMP if len(sender) == 4 else craft.ICMPV6
        found += [packet(ends, number, craft.icmp(ends, *kind, 0, quote)) for kind in kinds]
    return found


@families
def test_a_forged_reset_ends_no_connection(
    placed: Placed, served: PacketWorld, family: int
) -> None:
    """The receiver judges by the sequence number: if it goes on, so does the flow."""
    living = [each for each in canaries(placed, served) if each.family == family]
    for canary in living:
        if canary.protocol != TCP:
            continue
        reset = packet(canary.outer, TCP, craft.tcp(canary.outer, RST))
        for _ in range(3):
            placed["kpb_tc_ingress", UPLINK].run(frame(reset, MAC[UPLINK]))
            canary.goes_on()


def test_a_quote_in_the_padding_is_none(placed: Placed, served: PacketWorld) -> None:
    """What follows the packet in its frame belongs to no packet, though it may look like one."""
    canary = canaries(placed, served)[0]
    error = forged(canary, packed(ELSEWHERE[0]))[-1]
    short = bytearray(error)
    short[2:4] = (28).to_bytes(2, "big")
    short[10:12] = bytes(2)
    short[10:12] = craft.checksum(bytes(short[:20])).to_bytes(2, "big")
    assert left_alone(placed["kpb_tc_ingress", UPLINK], bytes(short))
    assert served.count("MALFORMED") == 1
