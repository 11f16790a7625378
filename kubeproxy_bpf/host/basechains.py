# SPDX-License-Identifier: Apache-2.0
"""Finds base chains of nftables that drop what is forwarded, whoever made them, without ``nft``.

A kube-proxy of nftables mode leaves 100,000 chains: they pass by, and only base chains are looked
at. iptables in its nft backend has such chains too. Called by ``forward``.
"""

from __future__ import annotations

import socket
import struct
from typing import Iterator

from kubeproxy_bpf.host import nfnetlink
from kubeproxy_bpf.host.nfnetlink import GENERIC

_GET_CHAIN = 0xA04
_TABLE, _NAME, _HOOK, _POLICY = 1, 3, 4, 5
_HOOK_NUMBER = 1
_FORWARD, _DROP = 2, 0
_FAMILIES = {1: "inet", socket.AF_INET: "ip", socket.AF_INET6: "ip6"}
"""By NFPROTO_*; bridges and devices have hooks of other numbers."""


def dropping_chains() -> Iterator[str]:
    """Chains at the forward hook with policy drop, as "family table chain".

    Raises:
        OSError: the kernel refuses, or has no nftables.
    """
    with nfnetlink.open_channel() as channel:
        body = GENERIC.pack(socket.AF_UNSPEC, 0, 0)
        for raw, bodies in nfnetlink.dump(channel, _GET_CHAIN, body):
            for start, end in bodies:
                family = _FAMILIES.get(raw[start])
                spans = nfnetlink.spans(raw, start + GENERIC.size, end)
                if family and _HOOK in spans and _drops(raw, spans):
                    yield f"{family} {_text(raw, spans[_TABLE])} {_text(raw, spans[_NAME])}"


def _drops(raw: bytes, spans: nfnetlink.Spans) -> bool:
    hook = nfnetlink.spans(raw, *spans[_HOOK])
    return _POLICY in spans and (
        _number(raw, hook[_HOOK_NUMBER]),
        _number(raw, spans[_POLICY]),
    ) == (_FORWARD, _DROP)


def _number(raw: bytes, span: tuple[int, int]) -> int:
    return int(struct.unpack_from("!I", raw, span[0])[0])


def _text(raw: bytes, span: tuple[int, int]) -> str:
    return raw[slice(*span)].rstrip(b"\0").decode(errors="replace")
