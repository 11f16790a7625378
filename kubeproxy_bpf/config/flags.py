# SPDX-License-Identifier: Apache-2.0
"""The flags of kube-proxy 1.36: what each is, which field it sets, and what it does here.

One table feeds the parser, the help, docs/flags.md and the log lines about settings that change
nothing. How a flag meets the configuration file is in ``load``; flags of our own are in ``own``.
"""

from __future__ import annotations

from kubeproxy_bpf.config.flags_process import API, LOGGING, PROCESS
from kubeproxy_bpf.config.flags_proxy import CONNTRACK, PROXY, SERVING
from kubeproxy_bpf.config.known import IMPLEMENTED, WITHOUT_EFFECT

KUBE_PROXY_FLAGS = (*PROCESS, *API, *SERVING, *PROXY, *CONNTRACK, *LOGGING)

_WINDOWS = "kube-proxy uses it on Windows only"

FIELDS = {
    "clientConnection.acceptContentTypes": (WITHOUT_EFFECT, "JSON is asked for"),
    "nftables.masqueradeBit": (IMPLEMENTED, "in mode nftables, as iptables.masqueradeBit"),
    "nftables.masqueradeAll": (IMPLEMENTED, "in mode nftables"),
    "nftables.syncPeriod": (IMPLEMENTED, "in mode nftables"),
    "nftables.minSyncPeriod": (IMPLEMENTED, "in mode nftables"),
    "winkernel.networkName": (WITHOUT_EFFECT, _WINDOWS),
    "winkernel.sourceVip": (WITHOUT_EFFECT, _WINDOWS),
    "winkernel.enableDSR": (WITHOUT_EFFECT, _WINDOWS),
    "winkernel.rootHnsEndpointName": (WITHOUT_EFFECT, _WINDOWS),
    "winkernel.forwardHealthCheckVip": (WITHOUT_EFFECT, _WINDOWS),
    "portRange": (WITHOUT_EFFECT, "kube-proxy does not use it either"),
    "windowsRunAsService": (WITHOUT_EFFECT, _WINDOWS),
}
"""Fields of the configuration file that have no flag of their own."""

ENVIRONMENT = {
    "KUBE_PROXY_NFTABLES_SKIP_KERNEL_VERSION_CHECK": "no nftables are used",
    "GOGC": "there is no Go in here",
    "GOMAXPROCS": "there is no Go in here",
    "GOTRACEBACK": "there is no Go in here",
}
"""Variables that kube-proxy reads, and why they have no effect here."""

REFUSED_FLAGS = {
    "removed from kube-proxy": (
        "proxy-port-range",
        "udp-timeout",
        "cleanup-ipvs",
        "cleanup-iptables",
        "resource-container",
    ),
    "kube-proxy has it on Windows only": (
        "windows-service",
        "enable-dsr",
        "network-name",
        "source-vip",
        "root-hnsendpoint-name",
        "forward-healthcheck-vip",
    ),
}
"""Unknown flags, as to kube-proxy on Linux: usage, an error, exit code 1."""
