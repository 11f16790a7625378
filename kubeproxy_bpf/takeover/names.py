# SPDX-License-Identifier: Apache-2.0
"""The names under which kube-proxy works: all that may be removed, and nothing else.

Pure. A name that only begins like one of these is somebody else's, and so are the kubelet's chains
(KUBE-FIREWALL, KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT, KUBE-MARK-DROP). Read by ``ruleset``,
``nftables`` and ``ipvs``.
"""

from __future__ import annotations

import re

_CHAINS = {
    "nat": {
        "KUBE-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-POSTROUTING",
        "KUBE-MARK-MASQ",
        "KUBE-PROXY-CANARY",
        # Of the mode ipvs:
        "KUBE-NODE-PORT",
        "KUBE-LOAD-BALANCER",
    },
    "filter": {
        "KUBE-SERVICES",
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-FORWARD",
        "KUBE-NODEPORTS",
        "KUBE-PROXY-FIREWALL",
        "KUBE-PROXY-CANARY",
        # Of the mode ipvs:
        "KUBE-NODE-PORT",
        "KUBE-SOURCE-RANGES-FIREWALL",
        "KUBE-IPVS-FILTER",
        "KUBE-IPVS-OUT-FILTER",
    },
    "mangle": {"KUBE-PROXY-CANARY"},
}

_OF_SERVICES = re.compile("KUBE-(?:SVC|SVL|SEP|FW|EXT)-[A-Z2-7]{16}")
"""Of the nat table: 16 characters of a digest, in base 32, of a Service's port or endpoint."""

JUMPS = frozenset(
    {
        ("nat", "PREROUTING", "KUBE-SERVICES"),
        ("nat", "OUTPUT", "KUBE-SERVICES"),
        ("nat", "POSTROUTING", "KUBE-POSTROUTING"),
        ("filter", "INPUT", "KUBE-EXTERNAL-SERVICES"),
        ("filter", "FORWARD", "KUBE-EXTERNAL-SERVICES"),
        ("filter", "INPUT", "KUBE-NODEPORTS"),
        ("filter", "FORWARD", "KUBE-SERVICES"),
        ("filter", "OUTPUT", "KUBE-SERVICES"),
        ("filter", "FORWARD", "KUBE-FORWARD"),
        ("filter", "INPUT", "KUBE-PROXY-FIREWALL"),
        ("filter", "OUTPUT", "KUBE-PROXY-FIREWALL"),
        ("filter", "FORWARD", "KUBE-PROXY-FIREWALL"),
        ("filter", "INPUT", "KUBE-NODE-PORT"),
        ("filter", "INPUT", "KUBE-IPVS-FILTER"),
        ("filter", "OUTPUT", "KUBE-IPVS-OUT-FILTER"),
    }
)
"""Table, built-in chain, and the chain of kube-proxy to which it sends packets."""

NEEDED_BY = {"KUBE-MARK-MASQ": "KUBE-POSTROUTING"}
"""Who marks a packet in the first chain counts on the second to masquerade it."""

ACCEPT_CHAIN = "KUBE-PROXY-BPF-FORWARD"
"""Ours (``host.forward``): accepts what KUBE-FORWARD would."""

NFTABLES_TABLES = (("ip", "kube-proxy"), ("ip6", "kube-proxy"))

IPVS_DEVICE = "kube-ipvs0"

_SETS = (
    "LOOP-BACK",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-SOURCE-IP",
    "LOAD-BALANCER-SOURCE-CIDR",
    "NODE-PORT-TCP",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
)
# The kernel takes 31 characters; kube-proxy cuts what is longer.
IPSETS = frozenset(f"{prefix}{name}"[:31] for prefix in ("KUBE-", "KUBE-6-") for name in _SETS)


def is_chain(table: str, name: str) -> bool:
    """Whether a chain of iptables is kube-proxy's."""
    if name in _CHAINS.get(table, ()):
        return True
    return table == "nat" and _OF_SERVICES.fullmatch(name) is not None
