# SPDX-License-Identifier: Apache-2.0
"""What the audit found and did, for metrics; ``telemetry`` makes it, the audit writes to it."""

from __future__ import annotations

from kubeproxy_bpf.metering import Counter, Gauge, Histogram, Meters, exponential

_PREFIX = "kubeproxy_bpf_audit_"
_KIND = ("map", "kind")


class AuditMeters(Meters):
    """Counts since the start of the process."""

    def __init__(self) -> None:
        self.runs = Counter(
            f"{_PREFIX}runs_total", "Comparisons of all maps with what was programmed"
        )
        self.last_run = Gauge(
            f"{_PREFIX}last_run_timestamp_seconds", "When the last comparison ended; 0: none did"
        )
        self.duration = Histogram(
            f"{_PREFIX}duration_seconds",
            "Duration of one comparison, with its pauses and with repairs",
            exponential(0.001, 2, 15),
        )
        self.differences = Counter(
            f"{_PREFIX}differences_total",
            "Entries of maps that somebody else added, removed or changed",
            _KIND,
        )
        self.repaired = Counter(
            f"{_PREFIX}repaired_total", "Those of them that are as they should be again", _KIND
        )
        self.put_back = Counter(
            f"{_PREFIX}put_back_total",
            "Attached programs and pins that somebody else removed, and that were put back",
            ("kind",),
        )
        self.pins_missing = Gauge(
            f"{_PREFIX}pins_missing",
            "Pins that are gone and cannot be made again: they end with the process",
        )
        self.cgroup_sound = Gauge(
            "kubeproxy_bpf_cgroup_sound",
            "0: the hooked cgroup is one that no pod belongs to",
        )
        self.cgroup_sound.set(1)
