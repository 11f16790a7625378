# SPDX-License-Identifier: Apache-2.0
"""What is measured of requests to the API server, under the names of Kubernetes' own client.

As there, a watch counts as a request when its answer begins, but not in durations and sizes: it
lasts as long as it can. Written by ``api.client`` and ``api.reflector``; ``app`` makes it. What is
measured of the snapshot of objects on disk is written by ``last_known``.
"""

from __future__ import annotations

import time
from typing import Callable, Iterator, Mapping

from kubeproxy_bpf.metering import Counter, Family, Gauge, Histogram, Meters

DURATION_BOUNDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
SIZE_BOUNDS = (64.0, 256.0, 512.0, 1024.0, *(float(4**power) for power in range(6, 13)))

NO_ANSWER = "<error>"
"""Stands for the status of a request that got none."""


class RestMeters(Meters):
    """Requests by the host that they went to, and how fresh is what is known of each resource."""

    def __init__(self) -> None:
        verb = ("host", "verb")
        self._requests = Counter(
            "rest_client_requests_total",
            "[ALPHA] Requests to the API server by status, host and method",
            ("code", "host", "method"),
        )
        self._retries = Counter(
            "rest_client_request_retries_total",
            "[ALPHA] Requests that were repeated, by the status that led to it",
            ("code", "host", "verb"),
        )
        self._duration = Histogram(
            "rest_client_request_duration_seconds",
            "[ALPHA] Duration of requests to the API server, watches left out",
            DURATION_BOUNDS,
            verb,
        )
        self._request_size = Histogram(
            "rest_client_request_size_bytes", "[ALPHA] Size of request bodies", SIZE_BOUNDS, verb
        )
        self._response_size = Histogram(
            "rest_client_response_size_bytes",
            "[ALPHA] Size of answers before compression, watches left out",
            SIZE_BOUNDS,
            verb,
        )
        self._heard = Gauge(
            "kubeproxy_bpf_api_last_heard_timestamp_seconds",
            "When the API server last said anything about objects of a kind",
            ("kind",),
        )
        self._failures = Counter(
            "kubeproxy_bpf_api_failures_total",
            "Lists and watches that failed, by kind of object",
            ("kind",),
        )

    def answered(self, method: str, host: str, code: int | str) -> None:
        """A request got this status, or NO_ANSWER."""
        self._requests.inc(str(code), host, method)

    def finished(
        self, method: str, host: str, seconds: float, received_bytes: int, sent_bytes: int = 0
    ) -> None:
        """A request that is no watch was read to its end."""
        self._duration.observe(seconds, host, method)
        self._request_size.observe(sent_bytes, host, method)
        self._response_size.observe(received_bytes, host, method)

    def repeated(self, method: str, host: str, code: int) -> None:
        """A request is sent again for the sake of its status."""
        self._retries.inc(str(code), host, method)

    def heard(self, kind: str) -> None:
        """The API server said something about a kind of object, if only that nothing changed."""
        self._heard.set(time.time(), kind)

    def failed(self, kind: str) -> None:
        """A list or watch ended in an error."""
        self._failures.inc(kind)


class SnapshotMeters(Meters):
    """The snapshot of objects on disk; ``errors.inc("corrupt")``."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._written: float | None = None
        self.writes = Counter("kubeproxy_bpf_snapshot_writes_total", "Snapshots that were written")
        self.errors = Counter(
            "kubeproxy_bpf_snapshot_errors_total",
            "Snapshots that were not written, or not believed, by reason",
            ("reason",),
        )
        self.errors.inc("not_written", by=0)
        self._age = Gauge(
            "kubeproxy_bpf_snapshot_age_seconds",
            "Time since the snapshot on disk was what the API server said",
        )
        self._age.values.clear()
        self._objects = Gauge(
            "kubeproxy_bpf_snapshot_objects",
            "Objects of a snapshot that stand in for what the API server has not told yet",
            ("kind",),
        )

    def written(self, moment: float) -> None:
        """When what the file says was what the API server said, in Unix time."""
        self._written = moment

    def in_use(self, counts: Mapping[str, int]) -> None:
        """So many objects stand in, by kind; none: all is known."""
        for kind in {*counts, *(labels[0] for labels in self._objects.values)}:
            self._objects.set(counts.get(kind, 0), kind)

    def families(self) -> Iterator[Family]:
        """Copies of all; without an age where there is no snapshot."""
        if self._written is not None:
            self._age.set(max(self._wall() - self._written, 0.0))
        return super().families()
