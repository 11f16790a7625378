# SPDX-License-Identifier: Apache-2.0
"""How much of a kube-proxy was on the node at the last look. ``telemetry`` makes and reads it."""

from __future__ import annotations

from typing import Mapping

from kubeproxy_bpf.metering import Gauge, Meters

KINDS = (
    "iptables_jumps",
    "iptables_chains",
    "iptables_rules",
    "nftables_tables",
    "ipvs_servers",
    "ipvs_devices",
    "ipsets",
)


class TakeoverMeters(Meters):
    """Told by ``takeover``; without series until it has looked."""

    def __init__(self) -> None:
        self._leftovers = Gauge(
            "kubeproxy_bpf_takeover_leftovers",
            "What a kube-proxy left on the node, at the last look",
            ("kind",),
        )

    def found(self, counts: Mapping[str, int]) -> None:
        """So many there are now, by kind."""
        for kind in KINDS:
            self._leftovers.set(counts.get(kind, 0), kind)
