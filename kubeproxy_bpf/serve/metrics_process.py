# SPDX-License-Identifier: Apache-2.0
"""Metrics of the process that the client library has not, read from /proc when somebody asks."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Iterator

from kubeproxy_bpf.metering import Family, gauge

_UNLIMITED = 2.0**64


def families() -> Iterator[Family]:
    """What Go's process collector shows beyond that of the library."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    yield gauge(
        "process_virtual_memory_max_bytes",
        "Limit of virtual memory in bytes.",
        _UNLIMITED if limit == resource.RLIM_INFINITY else limit,
    )
    traffic = _traffic()
    for field, name, text in (
        ("InOctets", "receive", "Bytes that came to the network namespace of the process."),
        ("OutOctets", "transmit", "Bytes that left the network namespace of the process."),
    ):
        if field in traffic:
            series = {(): float(traffic[field])}
            yield Family(f"process_network_{name}_bytes_total", "counter", text, (), series)


def started(stability: str = "") -> Family:
    """Since when this process runs."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return gauge(
        "process_start_time_seconds",
        f"{stability}Start time of the process since unix epoch in seconds.",
        _booted() + begin_s,
    )


def _booted() -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


def _traffic() -> dict[str, str]:
    """The IP extensions of /proc/net/netstat: a line of names and a line of values."""
    try:
        lines = Path("/proc/self/net/netstat").read_text().splitlines()
    except OSError:
        return {}
    rows = [line.split()[1:] for line in lines if line.startswith("IpExt:")]
    return dict(zip(*rows)) if len(rows) == 2 else {}
