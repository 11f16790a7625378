# SPDX-License-Identifier: Apache-2.0
"""What an address is good for, and lenient prefixes."""

import pytest

from kubeproxy_bpf.model.addresses import (
    format_address,
    parse_prefix,
    unfit_vip,
)
from kubeproxy_bpf.model.types import Family, Prefix, family_of
from tests.fix_objects import ip


@pytest.mark.parametrize(
    "text, canonical, bits",
    [
        ("10.0.0.0/8", "10.0.0.0", 104),
        (" 010.1.2.3/08 ", "10.0.0.0", 104),
        ("192.0.2.129/025", "192.0.2.128", 121),
        ("0.0.0.0/0", "0.0.0.0", 96),
        ("2001:db8::ffff/64", "2001:db8::", 64),
        ("::/0", "::", 0),
        ("::1/128", "::1", 128),
    ],
)
def test_prefixes_are_read_leniently(text: str, canonical: str, bits: int) -> None:
    """[I7, F5] Leading zeros and blanks around do not count, host bits are cleared."""
    assert parse_prefix(text) == Prefix(ip(canonical), bits)


@pytest.mark.parametrize(
    "text",
    ["", "/8", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "::/129", "10.0.0.0/+8", "10.0.0.0/-1"]
    + ["10.0.0.0/8 x", "10.0.0.0/٨", "word/8", "10.0.0.0/" + "0" * 5000 + "8"],
)
def test_bad_prefixes_are_none(text: str) -> None:
    """Nothing that is no prefix is taken for one, and nothing raises."""
    assert parse_prefix(text) is None


def test_prefixes_hold_addresses_of_their_own_family_only() -> None:
    """::/0 holds no IPv4 address, although that is stored v4-mapped."""
    everything = parse_prefix("::/0")
    net = parse_prefix("10.0.0.0/8")
    assert everything is not None and net is not None
    assert ip("2001:db8::1") in everything
    assert ip("10.0.0.1") not in everything
    assert ip("10.255.0.1") in net
    assert ip("11.0.0.1") not in net
    assert "10.0.0.1" not in net


@pytest.mark.parametrize("text, expected", [("0.0.0.0/0", True), ("::/0", True), ("::/96", False)])
def test_everything_is_a_prefix_of_no_bits(text: str, expected: bool) -> None:
    """[F8] Only /0 of its own family lets everybody in."""
    prefix = parse_prefix(text)
    assert prefix is not None and prefix.is_everything is expected


def test_mapped_addresses_are_ipv4() -> None:
    """[A9] ::ffff:10.0.0.1 is an IPv4 address."""
    assert family_of(ip("::ffff:10.0.0.1")) == Family.IPV4
    assert family_of(ip("::10.0.0.1")) == Family.IPV6
    assert format_address(ip("::ffff:10.0.0.1")) == "10.0.0.1"
    assert format_address(ip("2001:0db8::1")) == "2001:db8::1"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("127.0.0.9", "loopback"),
        ("::1", "loopback"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.255", "multicast"),
        ("ff02::1", "multicast"),
        ("169.254.20.10", "link-local"),
        ("fe80::1", "link-local"),
        ("febf::1", "link-local"),
        ("255.255.255.255", "broadcast"),
        ("10.0.0.1", None),
        ("169.253.0.1", None),
        ("223.255.255.255", None),
        ("fec0::1", None),
        ("fd00::1", None),
    ],
)
def test_impossible_vips_are_named(text: str, reason: str | None) -> None:
    """Loopback, unspecified, multicast, link-local and broadcast addresses are no VIPs."""
    assert unfit_vip(ip(text)) == reason
