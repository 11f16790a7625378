# SPDX-License-Identifier: Apache-2.0
"""Time-outs and table sizes that follow the kernel's connection tracking."""

import struct

import pytest

from kubeproxy_bpf.dataplane.tracking import (
    TICK_NS,
    TrackState,
    default_flows,
    encode_timeouts,
    timeouts,
)

GIB = 1 << 30


def test_every_state_of_a_flow_has_a_time_out(tmp_path):
    """Without conntrack in the kernel the defaults hold; no state lives for ever."""
    found = timeouts({}, tmp_path)

    assert set(TrackState) - {TrackState.NONE, TrackState.KINDS} == set(found)
    assert min(found.values()) > 0


def test_the_kernels_time_out_fills_what_is_not_configured(tmp_path):
    """Zero in the configuration means the sysctl; a value there beats the sysctl."""
    (tmp_path / "nf_conntrack_udp_timeout").write_text("45\n")
    (tmp_path / "nf_conntrack_tcp_timeout_established").write_text("432000\n")

    found = timeouts({TrackState.UDP_NEW: 0.0, TrackState.TCP_ESTABLISHED: 7.5}, tmp_path)

    assert 45.0 == found[TrackState.UDP_NEW]
    assert 7.5 == found[TrackState.TCP_ESTABLISHED]


def test_time_outs_are_ticks_at_the_place_of_their_state():
    """Never shorter than asked for: a part of a tick counts as a whole one."""
    raw = encode_timeouts({TrackState.UDP_NEW: TICK_NS / 1e9, TrackState.OTHER: 0.2})
    ticks = struct.unpack("=16I", raw)

    assert (1, 2) == (ticks[TrackState.UDP_NEW], ticks[TrackState.OTHER])
    assert 3 == sum(ticks)


def test_a_time_out_of_years_stays_comparable():
    """Deadlines are compared by a signed difference of 32 bits."""
    ticks = struct.unpack("=16I", encode_timeouts({TrackState.OTHER: 1e9}))

    assert 1 << 30 == ticks[TrackState.OTHER]


@pytest.mark.parametrize(
    ("memory_bytes", "connections"),
    [
        (64 << 20, 1024),
        (512 << 20, 4096),
        (GIB, 8192),
        (2 * GIB, 65536),
        (4 * GIB, 65536),
        (8 * GIB, 262144),
        (512 * GIB, 262144),
    ],
)
def test_flows_are_sized_as_conntrack_would_be(memory_bytes, connections):
    """Both directions of a connection are entries, so twice as many."""
    assert 2 * connections == default_flows(memory_bytes)
