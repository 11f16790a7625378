# SPDX-License-Identifier: Apache-2.0
"""What is measured, under kube-proxy's names: one class for each part that measures.

Every name, type, label and bucket is that of kube-proxy 1.36 (docs/parity/metrics.tsv), unless it
begins with ``kubeproxy_bpf_``. ``app`` makes the objects and gives each part its own; the parts
write to them, ``serve.metrics`` copies them when somebody asks. Nothing here knows a format.
"""

from __future__ import annotations

import time
from typing import Callable, Iterable, Iterator

from kubeproxy_bpf.api.objects import ObjectKey
from kubeproxy_bpf.metering import Counter, Family, Gauge, Histogram, Meters, exponential
from kubeproxy_bpf.model.types import Changes, Desired, ServicePortId
from kubeproxy_bpf.plan.records import RecordFlags

SYNC_BOUNDS = exponential(0.001, 2, 15)
PROGRAMMING_BOUNDS = (
    0.25,
    0.5,
    *map(float, range(1, 60)),
    *map(float, range(60, 120, 5)),
    *map(float, range(120, 301, 30)),
)

_POLICIES = {
    "internal": int(RecordFlags.INTERNAL_LOCAL),
    "external": int(RecordFlags.EXTERNAL_LOCAL),
}
_EITHER = _POLICIES["internal"] | _POLICIES["external"]
_HAS_ENDPOINTS = int(RecordFlags.HAS_ENDPOINTS)
_FAMILY = ("ip_family",)
_TAKEN_MAX = 100_000
_SYNC = "kubeproxy_sync_proxy_rules_"


class ConntrackMeters(Meters):
    """The removal of stale entries from the kernel's own connection tracking.

    ``deleted.inc("IPv4", by=3)``; ``duration.observe(0.02, "IPv4")``.
    """

    def __init__(self) -> None:
        prefix = "kubeproxy_conntrack_reconciler_"
        self.deleted = Counter(
            f"{prefix}deleted_entries_total",
            "[ALPHA] UDP entries of the kernel's connection tracking that were removed",
            _FAMILY,
        )
        self.duration = Histogram(
            f"{prefix}sync_duration_seconds",
            "[ALPHA] Duration of one look through the kernel's connection tracking",
            SYNC_BOUNDS,
            _FAMILY,
        )


class HealthMeters(Meters):
    """Answers of the health server; ``healthz.inc("200")``."""

    def __init__(self) -> None:
        self.healthz = Counter(
            "kubeproxy_proxy_healthz_total", "[ALPHA] Answers of /healthz by status", ("code",)
        )
        self.livez = Counter(
            "kubeproxy_proxy_livez_total", "[ALPHA] Answers of /livez by status", ("code",)
        )


class SyncMeters(Meters):
    """What becomes of changes: told by ``feed`` and ``sync``.

    Times of triggers are those of the annotation on EndpointSlices; what was triggered before this
    process began is not its latency.
    """

    def __init__(self, families: Iterable[str], wall: Callable[[], float] = time.time) -> None:
        """``families``: those that are served, as "IPv4"."""
        self._families = tuple(families)
        self._wall = wall
        self._started = wall()
        # Plain numbers: the initial lists bring tens of thousands of changes at once.
        self._services_seen = self._slices_seen = self._pending_slices = 0
        self._pending_services: set[ObjectKey] = set()
        self._triggers: dict[tuple[str, ObjectKey], list[float]] = {}
        """Times that wait for a sync, by family and Service."""
        self._taken: list[tuple[str, float]] = []
        """Family and time of those that a sync took and has not programmed."""
        self._without_local: dict[ServicePortId, int] = {}
        """Service ports with endpoints, and none of them here; with the flags of their policies."""
        self._declare()

    def _declare(self) -> None:
        def duration(what: str, of: str) -> Histogram:
            name = f"kubeproxy_sync_{what}proxy_rules_duration_seconds"
            return Histogram(name, f"[ALPHA] Duration of {of}", SYNC_BOUNDS, _FAMILY)

        self._all = duration("", "a sync")
        self._full = duration("full_", "a sync of everything")
        self._partial = duration("partial_", "a sync of what changed")
        self._latency = Histogram(
            "kubeproxy_network_programming_duration_seconds",
            "[ALPHA] Time from the change of a Pod or Service until it is programmed here",
            PROGRAMMING_BOUNDS,
            _FAMILY,
        )
        self._service_changes = Counter(
            f"{_SYNC}service_changes_total", "[ALPHA] Changes of Services, once for each IP family"
        )
        self._services_pending = Gauge(
            f"{_SYNC}service_changes_pending", "[ALPHA] Services with changes that wait for a sync"
        )
        self._slice_changes = Counter(
            f"{_SYNC}endpoint_changes_total", "[ALPHA] Changes of EndpointSlices"
        )
        self._slices_pending = Gauge(
            f"{_SYNC}endpoint_changes_pending",
            "[ALPHA] Changes of EndpointSlices that wait for a sync",
        )
        self._queued = Gauge(
            f"{_SYNC}last_queued_timestamp_seconds", "[ALPHA] When a sync was last due", _FAMILY
        )
        self._finished = Gauge(
            f"{_SYNC}last_timestamp_seconds",
            "[ALPHA] When all known changes were last programmed",
            _FAMILY,
        )
        self.refused = Counter(
            "kubeproxy_bpf_refused_writes_total", "Map writes that the kernel refused", ("map",)
        )
        for name in ("vips", "frontends", "source_ranges"):
            self.refused.inc(name, by=0)
        self.addresses_unfit = Gauge(
            "kubeproxy_bpf_addresses_unfit",
            "Addresses of Services that are not programmed because the map vips is full",
        )
        self._no_local_total = Gauge(
            f"{_SYNC}no_local_endpoints_total",
            "[ALPHA] Service ports with a Local policy whose endpoints are all elsewhere",
            ("ip_family", "traffic_policy"),
        )
        for family in self._families:
            for policy in _POLICIES:
                self._no_local_total.set(0, family, policy)

    def families(self) -> Iterator[Family]:
        """Copies of all, by name."""
        self._service_changes.values[()] = self._services_seen * len(self._families)
        self._services_pending.set(len(self._pending_services))
        self._slice_changes.values[()] = self._slices_seen
        self._slices_pending.set(self._pending_slices)
        return super().families()

    # ---- told by feed ----

    def service_changed(self, key: ObjectKey) -> None:
        """A Service appeared, changed or went."""
        self._services_seen += 1
        self._pending_services.add(key)

    def slice_changed(self, family: str, service: ObjectKey, triggered: float) -> None:
        """A slice of a Service appeared or changed; ``triggered``: when what caused it happened, in
        Unix time, 0 if unknown."""
        if self._count_slice(family) and triggered > self._started:
            self._triggers.setdefault((family, service), []).append(triggered)

    def slice_removed(self, family: str, service: ObjectKey) -> None:
        """A slice of a Service went: what it said last is no time of this change."""
        if self._count_slice(family):
            self._triggers.pop((family, service), None)

    def _count_slice(self, family: str) -> bool:
        if family not in self._families:
            return False
        self._slices_seen += 1
        self._pending_slices += 1
        return True

    def queued(self) -> None:
        """A sync is due."""
        now = self._wall()
        for family in self._families:
            self._queued.set(now, family)

    # ---- told by sync ----

    def begun(self) -> None:
        """A sync takes all changes so far."""
        self._pending_services.clear()
        self._pending_slices = 0
        for (family, _), times in self._triggers.items():
            self._taken += ((family, triggered) for triggered in times)
        self._triggers.clear()
        # While the kernel refuses writes for days, they must not become ever more.
        del self._taken[_TAKEN_MAX:]

    def ended(self, changes: Changes, seconds: float) -> None:
        """The sync of these changes took so long; parts of it may have been refused."""
        served = {f"IPv{number}" for number in {int(port.family) for port in changes.services}}
        kind = self._full if changes.complete else self._partial
        for family in self._families:
            if changes.complete or not served or family in served:
                self._all.observe(seconds, family)
                kind.observe(seconds, family)
        self._count_no_local(changes)

    def finished(self) -> None:
        """All that was taken is programmed."""
        now = self._wall()
        for family in self._families:
            self._finished.set(now, family)
        for family, triggered in self._taken:
            self._latency.observe(max(now - triggered, 0.0), family)
        self._taken.clear()

    def _count_no_local(self, changes: Changes) -> None:
        known = self._without_local
        if changes.complete:
            for port in known.keys() - changes.services.keys():
                self._set_without_local(port, 0)
        for port, desired in changes.services.items():
            flags = _flags_without_local(desired)
            if flags != known.get(port, 0):
                self._set_without_local(port, flags)

    def _set_without_local(self, port: ServicePortId, flags: int) -> None:
        before = self._without_local.pop(port, 0)
        if flags:
            self._without_local[port] = flags
        for policy, flag in _POLICIES.items():
            change = bool(flags & flag) - bool(before & flag)
            self._no_local_total.inc(f"IPv{int(port.family)}", policy, by=change)


def _flags_without_local(desired: Desired | None) -> int:
    """Those of the policies of a service port that has endpoints, and none of them here."""
    if desired is None or desired.local_count or not desired.flags & _HAS_ENDPOINTS:
        return 0
    return desired.flags & _EITHER
