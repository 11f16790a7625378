# SPDX-License-Identifier: Apache-2.0
"""What an address is good for, and prefixes [I7]; addresses are 16 bytes, v4-mapped for IPv4.

Addresses are parsed by ``api.addresses``. Prefixes are read as leniently: the length may carry
leading zeros ("/025"). Nothing here raises: bad text gives None, and the caller knows which field
to blame. Called by the rest of the model and by ``node.addresses``.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address

from kubeproxy_bpf.api.addresses import V4_PREFIX, parse_address, special_range
from kubeproxy_bpf.model.types import Family, Prefix

WILDCARD = {Family.IPV4: V4_PREFIX + bytes(4), Family.IPV6: bytes(16)}
LOOPBACK = {Family.IPV4: V4_PREFIX + b"\x7f\0\0\1", Family.IPV6: bytes(15) + b"\1"}

_PREFIX_LENGTH = re.compile(r"0{0,9}[0-9]{1,3}")


def parse_prefix(text: str) -> Prefix | None:
    """The prefix of a CIDR with its host bits cleared; blanks around it do not count [F5]."""
    address_text, slash, bits_text = text.strip().partition("/")
    address = parse_address(address_text)
    if address is None or not slash:
        return None
    if _PREFIX_LENGTH.fullmatch(bits_text) is None:
        return None
    bits = int(bits_text) + (0 if ":" in address_text else 96)
    if bits > 128:
        return None
    mask = -1 << (128 - bits)
    return Prefix((int.from_bytes(address, "big") & mask).to_bytes(16, "big"), bits)


def format_address(address: bytes) -> str:
    if address.startswith(V4_PREFIX):
        return ".".join(map(str, address[12:]))
    return str(IPv6Address(address))


def is_loopback(address: bytes) -> bool:
    if address.startswith(V4_PREFIX):
        return address[12] == 127
    return address == LOOPBACK[Family.IPV6]


def is_link_local(address: bytes) -> bool:
    if address.startswith(V4_PREFIX):
        return address[12:14] == b"\xa9\xfe"
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


def unfit_vip(address: bytes) -> str | None:
    """What makes the address impossible as a VIP; None when it is fine."""
    return special_range(address) or None
