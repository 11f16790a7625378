# SPDX-License-Identifier: Apache-2.0
"""Whether the flow table makes sense: every entry by itself, and pair by pair."""

from __future__ import annotations

import struct

from kubeproxy_bpf.dataplane.flows import Flow, Tuple
from tests.bpf.packet.world import STATES, TRACK_PASS, TRACK_REPLY, PacketWorld, text

from .craft import SCTP, TCP, UDP

_ALONE, _ASSURED, _RESET = 1 << 8, 1 << 9, 1 << 10
_FLAGS = (1 << 8) - 1 | _ALONE | _ASSURED | _RESET
_STATES = {TCP: range(1, 7), UDP: range(7, 9), SCTP: range(9, 10)}
_OTHER = STATES.index("OTHER")
_WORD = 0xFFFFFFFF


def assert_sane(world: PacketWorld) -> dict[Tuple, Flow]:
    """Every entry is whole, says what its protocol can, and has its partner; all of them."""
    flows = world.flows()
    for key, flow in flows.items():
        assert key.protocol in _STATES, text(key)
        assert flow.flags & ~_FLAGS == 0, (text(key), flow)
        assert flow.state in _STATES[key.protocol] or flow.state == _OTHER, (text(key), flow)
        assert flow.check == check_of(key, flow.turn), (text(key), flow)
        if flow.flags & _ALONE:
            continue
        partner = flows.get(world.partner(key, flow))
        assert partner is not None, f"{text(key)} is alone: {flow}"
        back = world.partner(world.partner(key, flow), partner)
        assert back == key, f"{text(key)} and {text(back)}: {flow}, {partner}"
        assert partner.turn == flow.turn, text(key)
        # What finishes a large datagram behind the stack may stand where a partner stood.
        if not partner.flags & _ALONE:
            assert partner.state == flow.state, text(key)
            assert flow.flags & TRACK_PASS or (flow.flags ^ partner.flags) & TRACK_REPLY, text(key)
    return flows


def check_of(key: Tuple, turn: int) -> int:
    """The check that belongs to a key and a life of its flow, as the entry has it."""
    source, destination = (struct.unpack("=4I", end) for end in key[:2])
    ports = [struct.unpack("=H", struct.pack("!H", port))[0] for port in key[2:4]]
    mixed = ((ports[0] << 16 | ports[1]) * 0x9E3779B1 + turn) & _WORD
    mixed ^= (source[3] * 0x85EBCA77 & _WORD) ^ source[1]
    return mixed ^ (destination[3] * 0xC2B2AE3D & _WORD) ^ destination[1]
