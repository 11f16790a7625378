# SPDX-License-Identifier: Apache-2.0
"""/metrics/slis: results of the health checks of the metrics port, since the last reset.

As in kube-proxy there is one check, that somebody answers, and it has no series before somebody
asked for it. Used by ``metrics`` alone.
"""

from __future__ import annotations

from typing import Iterator

from kubeproxy_bpf.metering import Counter, Family, Gauge, Meters
from kubeproxy_bpf.serve.metrics_process import started


class CheckMeters(Meters):
    """Results by name and type of a check."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all results."""
        self._last = Gauge(
            "kubernetes_healthcheck", "[STABLE] Last result of a health check", ("name", "type")
        )
        self._results = Counter(
            "kubernetes_healthchecks_total",
            "[STABLE] Results of health checks",
            ("name", "status", "type"),
        )

    def passed(self, name: str, kind: str) -> None:
        """A check succeeded; it is of this kind ("healthz")."""
        self._last.set(1, name, kind)
        self._results.inc(name, "success", kind)

    def families(self) -> Iterator[Family]:
        """Copies of all, and since when this process runs."""
        yield from super().families()
        yield started("[ALPHA] ")
