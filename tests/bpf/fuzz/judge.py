# SPDX-License-Identifier: Apache-2.0
"""What may become of a packet: nothing, what a flow asks for, an answer, or the end of it.

Whatever is not aimed at the node, at a Service or along a flow must leave as it came. What was
right must leave right. Counts what it sees, to be compared with the counters of the programs.
"""

from __future__ import annotations

from collections import Counter

from kubeproxy_bpf.dataplane.flows import Flow, Tuple
from tests.bpf.packet.world import TRACK_DIRECT, TRACK_DSR, PacketWorld
from tests.bpf.world import mapped

from .corpus import VIPS, addresses_of_ours
from .craft import ETHERNET_BYTES, ICMP, ICMPV6, RST, TCP
from .driver import SHOT, UNSPEC, Out, Trial
from .reading import Reading, link_end, read, without_what_a_rewrite_may_change

_QUOTED_AT_MOST = 64
"""Of an answer: behind the IP header."""
_MAPPED = mapped("0.0.0.0")[:12]
_REASONS_TO_DROP = (
    *("FLOWS_FULL", "SNAT_EXHAUSTED", "PACKET_NO_LOCAL_ENDPOINT", "PACKET_UNUSED_ADDRESS"),
    *("PACKET_SOURCE_RANGES", "NO_ROUTE", "HOP_LIMIT"),
)
_REASONS_TO_ANSWER = ("PACKET_NO_ENDPOINTS", "PACKET_UNKNOWN_PORT", "UNKNOWN_TCP", "TOO_BIG")


class Judge:
    """Looks at every packet of a run."""

    def __init__(self, world: PacketWorld) -> None:
        self._world = world
        self._ours = frozenset(_mapped(address) for address in addresses_of_ours())
        self._service_cidr = _mapped(mapped(VIPS[0]))[:14], mapped(VIPS[1])[:14]
        self.seen: Counter[str] = Counter()

    def look(self, trial: Trial, sent: bytes, out: Out) -> None:
        """One packet, and what came of it."""
        if out.verdict == UNSPEC and out.data == sent:
            return
        at = link_end(sent, trial.header)
        before = read(sent, at) if at is not None else None
        what = f"{trial.name}: {sent.hex()} became {out.verdict:#x} {out.data.hex()}"
        assert before is not None, f"no packet, {what}"
        assert at is not None
        self.seen["opening"] += _opens(before, sent)
        if out.verdict == SHOT:
            self._dropped(before, what)
            return
        # What leaves for a neighbour is lent an empty Ethernet header where it has none.
        moved = 0 if trial.header or out.data[0] else ETHERNET_BYTES
        after = read(out.data, at + moved)
        assert after is not None, f"no packet came out, {what}"
        if _is_answer(before, after, sent, out.data):
            self._answered(before, after, trial.header > 0, what)
            assert _is_one_host(after.destination, trial.is_of_host), f"a dead letter, {what}"
            size = at + after.payload + _QUOTED_AT_MOST
            assert len(out.data) <= max(len(sent) + moved, size + 8 + before.payload), what
            return
        self.seen["rewritten"] += 1
        self._rewritten(before, after, out.verdict, what)
        assert len(out.data) == len(sent) + moved, f"another length, {what}"
        kept = without_what_a_rewrite_may_change(sent, at, before)
        then = without_what_a_rewrite_may_change(out.data, at + moved, after)
        assert kept == then, f"not the same content, {what}"

    def account(self) -> None:
        """The counters of the programs and what was seen tell the same story."""
        count, seen = self._world.count, self.seen
        answers = sum(map(count, _REASONS_TO_ANSWER))
        reasons = sum(map(count, _REASONS_TO_DROP))
        assert not count("HALF_STATE")
        assert seen["answered"] <= answers
        assert seen["dropped"] <= reasons + answers - seen["answered"] + seen["parts dropped"]
        assert count("FLOW_NEW") <= seen["opening"]

    # ---- what may be ----

    def _dropped(self, before: Reading, what: str) -> None:
        self.seen["dropped"] += 1
        self.seen["parts dropped"] += before.fragment
        assert self._is_ours(before.destination) or self._flows(before), f"a stranger's, {what}"

    def _answered(self, before: Reading, after: Reading, linked: bool, what: str) -> None:
        self.seen["answered"] += 1
        assert self._is_ours(before.destination) or self._flows(before), f"a stranger's, {what}"
        assert (after.source, after.destination) == (before.destination, before.source), what
        # A trial takes the first 14 bytes of any packet for a link header, and a quote moves behind
        # them: answers without one are judged on a real device (tests/bpf/reject).
        right = after.header_is_right and (after.payload_is_right or not linked)
        assert right, f"a wrong sum, {what}"

    def _rewritten(self, before: Reading, after: Reading, verdict: int, what: str) -> None:
        flows = self._flows(before)
        assert flows, f"no flow, {what}"
        assert after.header_is_right is before.header_is_right, f"a wrong header sum, {what}"
        if before.payload_is_right is not None:
            assert after.payload_is_right is before.payload_is_right, f"a wrong sum, {what}"
        if before.quoted is not None and after.quoted is not None:
            assert after.quoted.header_is_right is before.quoted.header_is_right, what
        fits = any(_fits(flow, before, after, verdict) for flow in flows)
        assert fits, f"not as {flows} has it, {what}"

    def _is_ours(self, address: bytes) -> bool:
        return address in self._ours or address[:14] in self._service_cidr

    def _flows(self, reading: Reading) -> list[Flow]:
        """The flow that a packet belongs to, as its own bytes have it.

        A later fragment has no ports: it may be of any flow between its ends.
        """
        key = _key_of(reading)
        if key is not None:
            flow = self._world.flow(key)
            return [] if flow is None else [flow]
        if not reading.later:
            return []
        ends = reading.source, reading.destination, reading.protocol
        return [flow for key, flow in self._world.flows().items() if (*key[:2], key[4]) == ends]


def _key_of(reading: Reading) -> Tuple | None:
    quoted = reading.quoted
    if quoted is not None:
        ports = quoted.ports[::-1]
        return Tuple(quoted.destination, quoted.source, *ports, quoted.protocol)
    if reading.ports is None:
        return None
    return Tuple(reading.source, reading.destination, *reading.ports, reading.protocol)


def _fits(flow: Flow, before: Reading, after: Reading, verdict: int) -> bool:
    """Whether this flow makes the one packet of the other."""
    if flow.flags & TRACK_DSR:
        return (after.source, after.destination) == (before.source, before.destination)
    if before.quoted is not None:
        quoted = after.quoted
        if quoted is None:
            return False
        return flow[2:6] == (quoted.destination, quoted.source, *quoted.ports[::-1])
    source, port = flow.source, flow.source_port
    if flow.flags & TRACK_DIRECT and verdict == UNSPEC:  # to be finished behind the stack
        source, port = before.source, before.ports[0] if before.ports else 0
    if (after.source, after.destination) != (source, flow.destination):
        return False
    return after.ports in (None, (port, flow.destination_port))


def _opens(reading: Reading, sent: bytes) -> bool:
    if reading.later or reading.quoted is not None:
        return False
    if reading.protocol != TCP:
        return reading.ports is not None
    # With consistent choice the middle of a connection opens a flow as well.
    return reading.ports is not None and not sent[reading.payload + 13] & RST


def _is_answer(before: Reading, after: Reading, sent: bytes, data: bytes) -> bool:
    if after.protocol in (ICMP, ICMPV6):
        return before.protocol not in (ICMP, ICMPV6)
    if after.protocol != TCP or before.protocol != TCP or before.later:
        return False
    return bool(data[after.payload + 13] & RST and not sent[before.payload + 13] & RST)


def _is_one_host(address: bytes, own: bool) -> bool:
    """Nobody else may be answered; 127/8 and ::1 are somebody where the host itself sends only."""
    if address.startswith(_MAPPED):
        return any(address[12:]) and address[12] < 224 and (own or address[12] != 127)
    return address[0] != 0xFF and int.from_bytes(address, "big") > (0 if own else 1)


def _mapped(address: bytes) -> bytes:
    return address if len(address) == 16 else _MAPPED + address
