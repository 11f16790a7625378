# SPDX-License-Identifier: Apache-2.0
"""Texts of values are read and written as Go does it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_bpf.config import gotext


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("15m0s", 900),
        ("-1.5h", -5400),
        ("250ms", 0.25),
        ("+2s", 2),
        ("1h2m3s4ms5us6ns", 3723.004005006),
        (".5s", 0.5),
        ("1.s", 1),
        ("3µs", 3e-6),
    ],
)
def test_durations_are_those_of_go(text, seconds):
    """Units add up, fractions and signs count."""
    assert seconds == pytest.approx(gotext.parse_duration(text))


@pytest.mark.parametrize(
    "text", ["", "-", "1", "s", "1 s", "1s ", "1d", "1e3s", "1_0s", "300000h1h1", "3000000h"]
)
def test_other_durations_are_refused(text):
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="time: "):
        gotext.parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (86400, "24h0m0s"),
        (90, "1m30s"),
        (60, "1m0s"),
        (0.25, "250ms"),
        (1.5, "1.5s"),
        (0.0015, "1.5ms"),
        (1e-9, "1ns"),
        (2.5e-6, "2.5µs"),
        (-1.5, "-1.5s"),
        (3600.25, "1h0m0.25s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds, text):
    """Each in its own unit below a second, in hours, minutes and seconds above."""
    assert text == gotext.format_duration(seconds)


@given(st.integers(-(10**15), 10**15))
def test_a_duration_survives_its_text(nanoseconds):
    """What is written means the same when it is read."""
    seconds = nanoseconds / 1e9
    again = gotext.parse_duration(gotext.format_duration(seconds))

    assert seconds == pytest.approx(again, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "address"),
    [("010.001.000.009", "10.1.0.9"), ("::ffff:010.0.0.1", "10.0.0.1"), ("fd00::0", "fd00::")],
)
def test_leading_zeros_of_addresses_do_not_count(text, address):
    """Old objects have them, they were never octal; a v4-mapped address is IPv4."""
    assert address == gotext.sloppy_ip(text)


@pytest.mark.parametrize("text", ["", "1.2.3", "1.2.3.256", "fe80::1%eth0", "::1::", "1.2.3.4/8"])
def test_what_is_no_address_is_refused(text):
    """Zones too, as no address of a node has one."""
    with pytest.raises(ValueError):
        gotext.sloppy_ip(text)


def test_cidrs_lose_their_host_bits():
    """10.1.2.3/8 is the network 10.0.0.0/8."""
    assert "10.0.0.0/8" == gotext.sloppy_cidr("010.1.2.3/8")
    for text in ("10.0.0.0", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/255.0.0.0", "::/+8", "x/8"):
        with pytest.raises(ValueError):
            gotext.sloppy_cidr(text)


@pytest.mark.parametrize(
    ("text", "zero"),
    [("0", True), ("0Ki", True), ("0.00M", True), ("-0", True), ("1", False), ("100m", False)],
)
def test_a_quantity_of_nothing_is_known(text, zero):
    """Whatever its unit."""
    assert zero == gotext.is_zero_quantity(gotext.parse_quantity(text))


def test_an_address_without_a_port_gets_one():
    """IPv6 in brackets; what has a port, or is no address, stays."""
    assert "10.0.0.1:80" == gotext.with_port("10.0.0.1", 80)
    assert "[::]:80" == gotext.with_port("::", 80)
    assert "[::]:81" == gotext.with_port("[::]:81", 80)
    assert "host" == gotext.with_port("host", 80)
