# SPDX-License-Identifier: Apache-2.0
"""How refusals are read: no number or date in one is too odd."""

from __future__ import annotations

import pytest

from kubeproxy_bpf.api.decode import parse_status
from kubeproxy_bpf.api.status import parse_retry_after, status_error

DAY_S = 86400.0


@pytest.mark.parametrize(
    "seconds, expected",
    [("17", 17.0), ("0", None), ("null", None), ("-5", 0.0), ("86401", DAY_S)]
    + [("9" * 400, DAY_S), ("-" + "9" * 400, 0.0)],
)
def test_retry_after_of_a_status_is_limited_to_a_day(seconds: str, expected: float | None) -> None:
    """Also numbers that no float can hold."""
    status = parse_status(b'{"details":{"retryAfterSeconds":%s}}' % seconds.encode())
    assert status_error(429, "TooManyRequests", status).retry_after_s == expected


@pytest.mark.parametrize(
    "value, expected",
    [("17", 17.0), ("9" * 5000, DAY_S), ("Fri, 31 Dec 9999 23:59:59 GMT", DAY_S)]
    + [("Sat, 01 Jan 0001 00:00:00 -2359", 0.0), ("Fri, 31 Dec 9999 23:59:59 -2359", DAY_S)]
    + [("soon", None), ("", None), ("-1", None), ("1e3", None), (None, None)]
    + [("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", None)]
    + [("Fri, 31 Dec 2026 23:59:59 +99999999999999999999", None)],
)
def test_retry_after_of_a_header_is_limited_to_a_day(
    value: str | None, expected: float | None
) -> None:
    """Dates at the ends of the calendar included; what is neither form is as if it were absent."""
    assert parse_retry_after(value, 1_800_000_000.0) == expected
