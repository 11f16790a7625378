# SPDX-License-Identifier: Apache-2.0
"""Address text, as leniently as Kubernetes reads it."""

from __future__ import annotations

import pytest

from kubeproxy_bpf.api.addresses import V4_PREFIX, is_ipv4, parse_address


@pytest.mark.parametrize(
    "text, expected",
    [
        ("10.0.0.1", V4_PREFIX + bytes([10, 0, 0, 1])),
        ("172.30.0.041", V4_PREFIX + bytes([172, 30, 0, 41])),
        ("0010.000.00.0", V4_PREFIX + bytes([10, 0, 0, 0])),
        ("::ffff:10.0.0.1", V4_PREFIX + bytes([10, 0, 0, 1])),
        ("::ffff:010.0.0.01", V4_PREFIX + bytes([10, 0, 0, 1])),
        ("::", bytes(16)),
        ("fd00::00001", b"\xfd" + bytes(14) + b"\x01"),
        ("FD00::a", b"\xfd" + bytes(14) + b"\x0a"),
    ],
)
def test_addresses_are_canonicalised_with_leading_zeros_as_decimal(
    text: str, expected: bytes
) -> None:
    """Every spelling that Kubernetes accepts becomes the same 16 bytes [I7]."""
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "10.0.0", "10.0.0.256", "10.0.0.1 ", "0x0a.0.0.1", "fe80::1%eth0", "1.2.3.4.5"]
    + ["example.org", "10.0.0.1/32", "fd00::12345", "10.0.0.\0001", "10.0.0.1\n", "١٠.0.0.1"],
)
def test_what_is_no_address_is_none(text: str) -> None:
    """Nothing but an address parses; nothing raises."""
    assert parse_address(text) is None


def test_families_are_told_apart_by_the_prefix() -> None:
    """A v4-mapped address is IPv4, all others are IPv6."""
    v4, v6 = parse_address("10.0.0.1"), parse_address("fd00::1")
    assert v4 is not None and is_ipv4(v4)
    assert v6 is not None and not is_ipv4(v6)
