# SPDX-License-Identifier: Apache-2.0
"""Whether the proxy is healthy, and whether the node should receive load-balancer traffic.

Pure state with an injected clock; ``healthz`` serves it over HTTP, ``sync`` and ``app`` report to
it. The rules are those of kube-proxy's health server, with one more: /healthz is not 200 before the
first sync, since load balancers would send traffic to a node that does not serve it yet.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Callable

from kubeproxy_bpf.api.objects import Node

AUTOSCALER_TAINT = "ToBeDeletedByClusterAutoscaler"


class Health:
    """A family is unhealthy while its oldest unapplied change is older than ``timeout_s``."""

    def __init__(self, families: tuple[str, ...], timeout_s: float, now: Callable[[], datetime]):
        self._timeout_s = timeout_s
        self._now = now
        self._updated = {family: now() for family in families}
        self._pending: datetime | None = None
        self._in_flight: datetime | None = None
        self._eligible = False
        self._waiting_for_writer = False
        self._programmed = False

    def change_queued(self) -> None:
        """A change waits to be programmed; only the oldest one counts."""
        if self._pending is None:
            self._pending = self._now()

    def sync_begun(self) -> None:
        """All changes queued so far are being programmed; those that come now are not."""
        self._in_flight = self._in_flight or self._pending
        self._pending = None

    def sync_finished(self) -> None:
        """What was queued when the sync began is programmed."""
        self._in_flight = None
        self._waiting_for_writer = False
        self._programmed = True
        self._updated = dict.fromkeys(self._updated, self._now())

    def writer_awaited(self) -> None:
        """Another process writes our maps; unhealthy until a sync of our own succeeds."""
        self._waiting_for_writer = True

    def node_seen(self, node: Node | None) -> None:
        """Judge the Node; a Node object that was deleted keeps its last verdict."""
        if node is not None:
            self._eligible = not node.deleting and AUTOSCALER_TAINT not in node.taints

    @property
    def last_sync(self) -> float:
        """Unix time of the last finished sync; 0 before the first."""
        return max(self._updated.values()).timestamp() if self._programmed else 0.0

    @property
    def healthy(self) -> bool:
        if self._waiting_for_writer:
            return False
        oldest = self._in_flight or self._pending
        if oldest is None:
            return True
        return (self._now() - oldest).total_seconds() < self._timeout_s

    def livez(self) -> tuple[int, dict[str, Any]]:
        """Status and body of /livez: health without the node's eligibility."""
        return self._report(self.healthy)

    def healthz(self) -> tuple[int, dict[str, Any]]:
        """Status and body of /healthz: what external load balancers act on."""
        status, body = self._report(self.healthy and self._eligible and self._programmed)
        body["nodeEligible"] = self._eligible
        return status, body

    def _report(self, ok: bool) -> tuple[int, dict[str, Any]]:
        now = self._now()
        healthy = self.healthy
        families = {
            family: {"lastUpdated": _rfc3339(updated), "healthy": healthy}
            for family, updated in self._updated.items()
        }
        last = now if ok else max(self._updated.values(), default=now)
        body = {
            "lastUpdated": _rfc3339(last),
            "currentTime": _rfc3339(now),
            "healthy": healthy,
            "status": families,
        }
        return (200 if ok else 503), body


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
