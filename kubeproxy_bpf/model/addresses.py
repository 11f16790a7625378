# SPDX-License-Identifier: Apache-2.0
"""IP addresses and prefixes as the model sees them: 16 bytes, v4-mapped for IPv4.

Parsing is as lenient as kube-proxy's [I7]: decimal groups of IPv4 and prefix lengths may carry
leading zeros ("172.30.0.041", "/025"), which clusters made before they were refused still hold.
The 16 bytes are the canonical form, so the same address written in two ways is the same value.
Nothing here raises: bad text gives None, and the caller knows which field to blame. Called by the
rest of the model, by ``node.addresses`` and by the decoder.
"""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import NamedTuple

from kubeproxy_bpf.model.types import Family

V4_PREFIX = bytes(10) + b"\xff\xff"
WILDCARD = {Family.IPV4: V4_PREFIX + bytes(4), Family.IPV6: bytes(16)}
LOOPBACK = {Family.IPV4: V4_PREFIX + b"\x7f\0\0\1", Family.IPV6: bytes(15) + b"\1"}

_LONGEST = 45
"""Characters of the longest IPv6 text; a bound on what is looked at."""


class Prefix(NamedTuple):
    """A CIDR; ``bits`` counts in 128, so an IPv4 /24 has 120."""

    address: bytes
    bits: int

    @property
    def family(self) -> Family:
        return family_of(self.address) if self.bits >= 96 else Family.IPV6

    @property
    def is_everything(self) -> bool:
        return self.bits == (96 if self.family == Family.IPV4 else 0)

    def __contains__(self, address: object) -> bool:
        # Without the family, ::/0 would hold every IPv4 address in its v4-mapped form.
        if not isinstance(address, bytes) or family_of(address) != self.family:
            return False
        shift = 128 - self.bits
        return (
            int.from_bytes(address, "big") >> shift == int.from_bytes(self.address, "big") >> shift
        )


def family_of(address: bytes) -> Family:
    return Family.IPV4 if address.startswith(V4_PREFIX) else Family.IPV6


def parse_address(text: str) -> bytes | None:
    """The 16 bytes of an address, None when the text is no address.

    "::ffff:10.0.0.1" is the IPv4 address 10.0.0.1, as it is for kube-proxy.
    """
    if ":" not in text:
        return _parse_ipv4(text)
    if len(text) > _LONGEST or "%" in text:
        return None
    try:
        return IPv6Address(text).packed
    except ValueError:
        return None


def _parse_ipv4(text: str) -> bytes | None:
    groups = text.split(".")
    if len(groups) != 4 or not text.isascii():
        return None
    # isdigit first: int() alone would also take "+1", " 1" and "1_0".
    if not all(group.isdigit() and len(group) <= _LONGEST for group in groups):
        return None
    numbers = [int(group) for group in groups]
    return V4_PREFIX + bytes(numbers) if max(numbers) <= 255 else None


def parse_prefix(text: str) -> Prefix | None:
    """The prefix of a CIDR with its host bits cleared; blanks around it do not count [F5]."""
    address_text, slash, bits_text = text.strip().partition("/")
    address = parse_address(address_text)
    if address is None or not slash:
        return None
    if not (bits_text.isascii() and bits_text.isdigit() and len(bits_text) <= _LONGEST):
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


def is_multicast(address: bytes) -> bool:
    if address.startswith(V4_PREFIX):
        return address[12] & 0xF0 == 0xE0
    return address[0] == 0xFF


def unfit_vip(address: bytes) -> str | None:
    """What makes the address impossible as a VIP; None when it is fine."""
    if address in WILDCARD.values():
        return "unspecified"
    if is_loopback(address):
        return "loopback"
    if is_multicast(address):
        return "multicast"
    if is_link_local(address):
        return "link-local"
    if address == V4_PREFIX + b"\xff\xff\xff\xff":
        return "broadcast"
    return None
