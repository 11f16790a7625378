# SPDX-License-Identifier: Apache-2.0
"""Conversations that go on while everything else is thrown at the node.

Each was opened in order, and from then on the same packets have to become the same packets, byte
for byte, however full the table is and whatever else came.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple

from tests.bpf.packet.node import LOCAL_POD, MAC, NODE, POD, REMOTE_POD, UPLINK
from tests.bpf.packet.world import EXTERNAL_LOCAL, NODE_PORT, PacketWorld

from . import craft
from .craft import ACK, ETHERNET_BYTES, PSH, SYN, TCP, UDP, Ends, packed, packet
from .driver import Out, Trial
from .reading import Reading, read

REMOTE_PORT, LOCAL_PORT, BACKEND_PORT = 30190, 30191, 9190
CLIENT = ("203.0.113.250", "2001:db8:fa::fa")
CLIENT_PORT = 51966
Trials = Mapping[tuple[str, str], Trial]
"""By program and device."""


class Step(NamedTuple):
    trial: Trial
    frame: bytes
    became: Out


class Canary:
    """One conversation of a client with a node port, by a remote backend or one on this node."""

    def __init__(self, trials: Trials, family: int, protocol: int, remote: bool) -> None:
        self._trials, self._remote = trials, remote
        self.family, self.protocol = family, protocol
        port = REMOTE_PORT if remote else LOCAL_PORT
        pod = REMOTE_POD if remote else LOCAL_POD
        client, node = packed(CLIENT[family]), packed(NODE[family])
        self.outer = Ends(client, CLIENT_PORT, node, port)
        self._backend = packed(pod[family]), BACKEND_PORT
        self.steps: tuple[Step, ...] = ()
        self.open()

    def open(self) -> None:
        """Shake hands, and remember what a packet of either side becomes."""
        inner = self._ends(self._ask(SYN)[-1])
        assert (inner.destination, inner.destination_port) == self._backend
        self._answer(inner.reply(), SYN | ACK)
        self._ask(ACK)
        asked = self._ask(PSH | ACK)
        answered = self._answer(inner.reply(), PSH | ACK)
        assert self._ends(answered[-1]) == self.outer.reply()
        self.steps = (*asked, *answered)

    def goes_on(self) -> None:
        """Both sides speak, and hear what they always hear."""
        for step in self.steps:
            became = step.trial.run(step.frame)
            assert became == step.became, f"{step.trial.name}: {became} not {step.became}"

    def _ask(self, flags: int) -> tuple[Step, ...]:
        first = self._step("kpb_tc_ingress", UPLINK, self._frame(self.outer, flags, UPLINK))
        if self._remote:
            return (first,)
        return first, self._step("kpb_tc_egress", POD, first.became.data)

    def _answer(self, ends: Ends, flags: int) -> tuple[Step, ...]:
        device = UPLINK if self._remote else POD
        first = self._step("kpb_tc_ingress", device, self._frame(ends, flags, device))
        if self._remote:
            return (first,)
        return first, self._step("kpb_tc_egress", UPLINK, first.became.data)

    def _step(self, program: str, device: str, frame: bytes) -> Step:
        trial = self._trials[program, device]
        became = trial.run(frame)
        assert became is not None
        return Step(trial, frame, became)

    def _frame(self, ends: Ends, flags: int, device: str) -> bytes:
        payload = b"canary" if flags & PSH or self.protocol == UDP else b""
        tcp = self.protocol == TCP
        segment = craft.tcp(ends, flags, payload) if tcp else craft.udp(ends, payload)
        return craft.frame(packet(ends, self.protocol, segment), MAC[device])

    def _ends(self, step: Step) -> Ends:
        """Who speaks to whom in what came out, whose checksums have to be right."""
        seen = read(step.became.data, ETHERNET_BYTES)
        assert seen is not None and seen.ports is not None
        assert seen.header_is_right and seen.payload_is_right
        source, destination = _packed(seen)
        return Ends(source, seen.ports[0], destination, seen.ports[1])


def canaries(trials: Trials, world: PacketWorld) -> list[Canary]:
    """One for each family, protocol and way; their Services are nobody else's."""
    found = []
    for family in (0, 1):
        for protocol in (TCP, UDP):
            common = {"protocol": protocol, "port": BACKEND_PORT}
            remote = (NODE_PORT, NODE[family], REMOTE_PORT)
            local = (NODE_PORT, NODE[family], LOCAL_PORT)
            world.service(remote, remote=[REMOTE_POD[family]], **common)
            world.service(local, local=[LOCAL_POD[family]], flags=EXTERNAL_LOCAL, **common)
            found += [Canary(trials, family, protocol, way) for way in (True, False)]
    return found


def _packed(seen: Reading) -> tuple[bytes, bytes]:
    cut = 12 if seen.is_ipv4 else 0
    return seen.source[cut:], seen.destination[cut:]
