# SPDX-License-Identifier: Apache-2.0
"""IP address text to the 16 bytes (v4-mapped) that the whole proxy uses.

As lenient as Kubernetes itself, which still accepts leading zeros in addresses that were stored
long ago (``172.30.0.041`` is 172.30.0.41, never octal) [I7, B5]. It does not judge addresses: a
loopback or multicast address parses; ``special_range`` names what it is, and the callers decide.
Called by the decoder and by the model.
"""

from __future__ import annotations

import re
from socket import AF_INET, AF_INET6, inet_pton

V4_PREFIX = bytes(10) + b"\xff\xff"
"""What precedes the four bytes of an IPv4 address in v4-mapped form (RFC 4291, 2.5.5.2)."""

_LEADING_ZEROS = re.compile(r"(?<![0-9A-Fa-f])0+(?=[0-9A-Fa-f])")


def parse_address(text: str) -> bytes | None:
    """16 bytes for an address, None for anything else (zones and blanks included)."""
    # inet_pton is eight times as fast as the ipaddress module, which counts at 100,000 endpoints.
    try:
        if ":" in text:
            return inet_pton(AF_INET6, text)
        return V4_PREFIX + inet_pton(AF_INET, text)
    except (OSError, ValueError):
        without = _LEADING_ZEROS.sub("", text)
        return parse_address(without) if without != text else None


def is_ipv4(address: bytes) -> bool:
    return address.startswith(V4_PREFIX)


# The first bytes of everything special: most addresses cost one look at one byte.
_IPV4_SUSPECTS = frozenset({0, 127, 169, *range(224, 240), 255})
_IPV6_SUSPECTS = frozenset({0, 0xFE, 0xFF})


def special_range(address: bytes) -> str:
    """Unspecified, loopback, link-local, multicast or broadcast; empty for all others."""
    if address.startswith(V4_PREFIX):
        return _special_ipv4(address[12:]) if address[12] in _IPV4_SUSPECTS else ""
    return _special_ipv6(address) if address[0] in _IPV6_SUSPECTS else ""


def _special_ipv4(address: bytes) -> str:
    if address[0] == 127:
        return "loopback"
    if 224 <= address[0] < 240:
        return "multicast"
    if address[:2] == b"\xa9\xfe":
        return "link-local"
    return {bytes(4): "unspecified", b"\xff\xff\xff\xff": "broadcast"}.get(address, "")


def _special_ipv6(address: bytes) -> str:
    if address[0] == 0xFF:
        return "multicast"
    if address[0] == 0xFE and address[1] & 0xC0 == 0x80:
        return "link-local"
    return {bytes(16): "unspecified", bytes(15) + b"\1": "loopback"}.get(address, "")
