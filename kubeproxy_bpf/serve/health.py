# SPDX-License-Identifier: Apache-2.0
"""Whether the proxy is healthy, and whether the node should receive load-balancer traffic.

Pure state with an injected clock; ``healthz`` serves it over HTTP, ``sync`` and ``app`` report to
it. The rules are those of kube-proxy's health server, with one more: /healthz is not 200 before the
first sync, since load balancers would send traffic to a node that does not serve it yet. A sync of
what an earlier process knew is none: other nodes may know better.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Callable, Collection

from kubeproxy_bpf.api.objects import Node

AUTOSCALER_TAINT = "ToBeDeletedByClusterAutoscaler"


class _FamilyHealth:
    """The oldest unapplied change of one IP family: waiting, or in a sync that goes on."""

    def __init__(self, now: datetime) -> None:
        self.updated = now
        self.pending: datetime | None = None
        self.in_flight: datetime | None = None

    def healthy(self, now: datetime, timeout_s: float) -> bool:
        oldest = self.in_flight or self.pending
        return oldest is None or (now - oldest).total_seconds() < timeout_s


class Health:
    """A family is unhealthy while its oldest unapplied change is older than ``timeout_s``."""

    def __init__(self, families: tuple[str, ...], timeout_s: float, now: Callable[[], datetime]):
        self._timeout_s = timeout_s
        self._now = now
        self._families = {family: _FamilyHealth(now()) for family in families}
        self._eligible = False
        self._waiting_for_writer = False
        self._hooks_fault = ""
        self._programmed = False

    def change_queued(self) -> None:
        """A change waits to be programmed; only the oldest one counts."""
        for family in self._families.values():
            if family.pending is None:
                family.pending = self._now()

    def sync_begun(self, concerned: Collection[str] | None = None) -> None:
        """All changes queued so far are being programmed; those that come now are not.

        ``concerned`` are the families that they touch: only those can fail now.
        """
        for name, family in self._families.items():
            if concerned is None or name in concerned:
                family.in_flight = family.in_flight or family.pending
            family.pending = None

    def sync_finished(self, known: bool = True) -> None:
        """What was queued when the sync began is programmed; not ``known``: it was a memory."""
        self._waiting_for_writer = False
        self._programmed = self._programmed or known
        for family in self._families.values():
            family.in_flight = None
            family.updated = self._now()

    def writer_awaited(self) -> None:
        """Another process writes our maps; unhealthy until a sync of our own succeeds."""
        self._waiting_for_writer = True

    def hooks_judged(self, fault: str) -> None:
        """Why connections are known to pass our programs by; empty: they are not."""
        self._hooks_fault = fault

    @property
    def waiting_for_writer(self) -> bool:
        """Whether another process writes our maps."""
        return self._waiting_for_writer

    def node_seen(self, node: Node | None) -> None:
        """Judge the Node; a Node object that was deleted keeps its last verdict."""
        if node is not None:
            self._eligible = not node.deleting and AUTOSCALER_TAINT not in node.taints

    @property
    def last_sync(self) -> float:
        """Unix time of the last finished sync; 0 before the first."""
        return self._last_update.timestamp() if self._programmed else 0.0

    @property
    def healthy(self) -> bool:
        return all(self._healthy_families().values())

    def livez(self) -> tuple[int, dict[str, Any]]:
        """Status and body of /livez: health without the node's eligibility."""
        return self._report(self.healthy, {})

    def healthz(self) -> tuple[int, dict[str, Any]]:
        """Status and body of /healthz: what external load balancers act on."""
        ok = self.healthy and self._eligible and self._programmed and not self._hooks_fault
        return self._report(ok, {"nodeEligible": self._eligible}, self._hooks_fault)

    def readyz(self) -> tuple[int, dict[str, Any]]:
        """Status and body of /readyz, which kube-proxy does not have: may an update go on.

        Neither the node's eligibility nor what is wrong with its hooks holds up the next node.
        """
        return self._report(self.healthy and self._programmed, {})

    def _report(
        self, ok: bool, eligible: dict[str, bool], fault: str = ""
    ) -> tuple[int, dict[str, Any]]:
        """Status, and body in the order of kube-proxy's fields; one of ours says what is wrong."""
        now = self._now()
        healthy = self._healthy_families()
        status = {
            name: {"lastUpdated": _rfc3339(family.updated), "healthy": healthy[name]}
            for name, family in self._families.items()
        }
        body = {
            "lastUpdated": _rfc3339(now if ok else self._last_update),
            "currentTime": _rfc3339(now),
            **eligible,
            "healthy": all(healthy.values()) and not fault,
            **({"hooksFault": fault} if fault else {}),
            **({"status": status} if status else {}),
        }
        return (200 if ok else 503), body

    @property
    def _last_update(self) -> datetime:
        return max((family.updated for family in self._families.values()), default=self._now())

    def _healthy_families(self) -> dict[str, bool]:
        now = self._now()
        return {
            name: not self._waiting_for_writer and family.healthy(now, self._timeout_s)
            for name, family in self._families.items()
        }


def _rfc3339(moment: datetime) -> str:
    """As Go's RFC3339Nano: no zeros at the end of a fraction."""
    text = moment.isoformat().replace("+00:00", "Z")
    head, point, fraction = text.removesuffix("Z").partition(".")
    return f"{head}.{fraction.rstrip('0')}Z" if point else text
