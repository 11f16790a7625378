# SPDX-License-Identifier: Apache-2.0
"""Runs the packet programs on single packets, inside the node's namespace."""

from __future__ import annotations

import struct
from enum import Enum
from typing import Mapping, NamedTuple

from kubeproxy_bpf.libbpf import ObjectProgram

from .node import Node

_SKB_BYTES = 192
_SKB_MARK, _SKB_INGRESS, _SKB_IFINDEX, _SKB_GSO_SEGS, _SKB_GSO_SIZE = 8, 36, 40, 164, 176
_ETHERNET = 14


class Verdict(Enum):
    UNSPEC = "goes on: to the programs behind, and to the stack"
    DROP = "dropped"
    REDIRECT = "leaves by a device"
    TX = "leaves by the device that it came from"


_TC = {0xFFFFFFFF: Verdict.UNSPEC, 2: Verdict.DROP, 7: Verdict.REDIRECT}
_XDP = {1: Verdict.DROP, 2: Verdict.UNSPEC, 3: Verdict.TX, 4: Verdict.REDIRECT}


class Seen(NamedTuple):
    """What a program made of a packet."""

    verdict: Verdict
    data: bytes

    def __repr__(self) -> str:
        return f"{self.verdict.name} {self.data.hex()}"


class Hooks:
    """All programs; a packet goes in by the name of a device."""

    def __init__(self, node: Node, programs: Mapping[str, ObjectProgram]) -> None:
        self._node = node
        self._programs = programs

    def ingress(self, device: str, data: bytes, **context: int) -> Seen:
        return self._tc("kpb_tc_ingress", device, data, context)

    def egress(self, device: str, data: bytes, **context: int) -> Seen:
        return self._tc("kpb_tc_egress", device, data, context)

    def ingress_l3(self, device: str, data: bytes, **context: int) -> Seen:
        """``data`` begins with the IP header.

        A test-run takes the protocol from bytes 12 and 13, where a frame has it. In an IP packet
        they belong to the source: it has to be of 8.0.0.0/16, or 2001:db8:86dd::/48.
        """
        return self._tc("kpb_tc_ingress_l3", device, data, context)

    def egress_l3(self, device: str, data: bytes, **context: int) -> Seen:
        return self._tc("kpb_tc_egress_l3", device, data, context)

    def xdp(self, device: str, data: bytes) -> Seen:
        context = struct.pack("=6I", 0, len(data), 0, self._node.ifindex[device], 0, 0)
        with self._node.inside():
            result = self._programs["kpb_xdp"].test_run(data, ctx=context)
        return Seen(_XDP[result.retval], result.data)

    def _tc(self, program: str, device: str, data: bytes, context: Mapping[str, int]) -> Seen:
        ctx = skb(self._node.ifindex[device], **context)
        with self._node.inside():
            result = self._programs[program].test_run(data, ctx=ctx)
        return Seen(_TC[result.retval], result.data)


def skb(ifindex: int, mark: int = 0, gso_size: int = 0, gso_segs: int = 0) -> bytes:
    """The context of a TC program for a packet that came by, or leaves by, a device."""
    raw = bytearray(_SKB_BYTES)
    struct.pack_into("=I", raw, _SKB_IFINDEX, ifindex)
    struct.pack_into("=I", raw, _SKB_INGRESS, ifindex)
    struct.pack_into("=I", raw, _SKB_MARK, mark)
    struct.pack_into("=I", raw, _SKB_GSO_SIZE, gso_size)
    struct.pack_into("=I", raw, _SKB_GSO_SEGS, gso_segs)
    return bytes(raw)
