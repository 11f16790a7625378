# SPDX-License-Identifier: Apache-2.0
"""Delays after failures."""

from __future__ import annotations

from random import Random

from kubeproxy_bpf.api.clock import Backoff
from kubeproxy_bpf.api.status import parse_retry_after


def test_delays_double_up_to_the_limit_with_jitter() -> None:
    """Each lies between half of its base and its base, also after days of failure."""
    backoff = Backoff(0.8, 30.0, Random(1))
    delays = [backoff.next() for _ in range(2000)]
    for i, delay in enumerate(delays):
        base = min(0.8 * 2 ** min(i, 10), 30.0)
        assert base / 2 <= delay <= base
    assert len(set(delays)) > 1900


def test_reset_starts_over() -> None:
    """After a success the next failure waits shortly."""
    backoff = Backoff(0.8, 30.0, Random(1))
    for _ in range(10):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 0.8


def test_retry_after_in_both_forms() -> None:
    """Seconds or a date; what is neither, or past, asks for nothing."""
    now = 1_800_000_000.0
    assert parse_retry_after("3", now) == 3.0
    assert parse_retry_after("Fri, 15 Jan 2027 08:00:30 GMT", now) == 30.0
    assert parse_retry_after("Fri, 15 Jan 2021 08:00:30 GMT", now) == 0.0
    assert parse_retry_after("soon", now) is None
    assert parse_retry_after("-1", now) is None
    assert parse_retry_after(None, now) is None
