# SPDX-License-Identifier: Apache-2.0
"""Flags of kube-proxy about servers, modes and connection tracking. Gathered by ``flags``."""

from __future__ import annotations

from kubeproxy_bpf.config import pflag
from kubeproxy_bpf.config.known import known

_USE_ADDRESS = "This flag is deprecated and will be removed in a future release."
_NO_IPVS = "no IPVS is used; validated in mode ipvs as kube-proxy does"

SERVING = (
    known(
        "bind-address",
        pflag.IP,
        "0.0.0.0",
        "bindAddress",
        "overrides the node's primary address; no socket is bound to it",
    ),
    known(
        "healthz-bind-address",
        pflag.IP_PORT,
        "0.0.0.0:10256",
        "healthzBindAddress",
        "address and port of /healthz and /livez",
    ),
    known(
        "metrics-bind-address",
        pflag.IP_PORT,
        "127.0.0.1:10249",
        "metricsBindAddress",
        "address and port of /metrics",
    ),
    known(
        "healthz-port",
        pflag.INT32,
        10256,
        "",
        "port for an address of health that has none; 0 disables the server",
        deprecated=_USE_ADDRESS + " Please use --healthz-bind-address instead.",
    ),
    known(
        "metrics-port",
        pflag.INT32,
        10249,
        "",
        "port for an address of metrics that has none",
        deprecated=_USE_ADDRESS + " Please use --metrics-bind-address instead.",
        note="0 is refused, as in kube-proxy",
    ),
    known(
        "bind-address-hard-fail",
        pflag.BOOL,
        False,
        "bindAddressHardFail",
        "end when a server cannot listen, instead of trying again",
    ),
    known(
        "profiling",
        pflag.BOOL,
        False,
        "enableProfiling",
        "/debug/flags on the metrics server",
        note="/debug/pprof/ lists what can be looked at here; Go's profiles do not exist",
    ),
    known(
        "show-hidden-metrics-for-version",
        pflag.STRING,
        "",
        "showHiddenMetricsForVersion",
        "previous version whose hidden metrics are shown",
        no_effect="no metric is hidden",
    ),
)

PROXY = (
    known(
        "proxy-mode",
        pflag.PROXY_MODE,
        "",
        "mode",
        "iptables, ipvs or nftables: accepted, eBPF serves",
        note="decides what differs between the modes: which node addresses serve node ports, "
        "which section of the file counts, what /proxyMode says",
    ),
    known(
        "iptables-masquerade-bit",
        pflag.INT32,
        14,
        "iptables.masqueradeBit",
        "bit of the mark of packets that FORWARD has to accept, within [0, 31]",
        note="packets are masqueraded without a mark; where FORWARD drops, rules accept the mark "
        "(--bpf-forward-accept). In mode nftables: nftables.masqueradeBit",
    ),
    known(
        "masquerade-all",
        pflag.BOOL,
        False,
        "iptables.masqueradeAll",
        "masquerade all traffic to cluster IPs",
        note="in mode nftables: nftables.masqueradeAll",
    ),
    known(
        "iptables-localhost-nodeports",
        pflag.BOOL,
        True,
        "iptables.localhostNodePorts",
        "serve node ports on loopback addresses",
    ),
    known(
        "iptables-sync-period",
        pflag.DURATION,
        30.0,
        "iptables.syncPeriod",
        "retry period of a failed sync; twice this is the time-out of health",
        note="in mode nftables: nftables.syncPeriod",
    ),
    known(
        "iptables-min-sync-period",
        pflag.DURATION,
        0.0,
        "iptables.minSyncPeriod",
        "least time between two syncs",
        note="kube-proxy's default is 1s, as its syncs are dear; here nothing said means 0s, a "
        "change is programmed at once. In mode nftables: nftables.minSyncPeriod",
    ),
    known(
        "ipvs-sync-period",
        pflag.DURATION,
        30.0,
        "ipvs.syncPeriod",
        "as --iptables-sync-period, in mode ipvs",
    ),
    known(
        "ipvs-min-sync-period",
        pflag.DURATION,
        0.0,
        "ipvs.minSyncPeriod",
        "as --iptables-min-sync-period, in mode ipvs",
        note="kube-proxy's help shows 1s",
    ),
    known("ipvs-scheduler", pflag.STRING, "", "ipvs.scheduler", "unused", no_effect=_NO_IPVS),
    known(
        "ipvs-exclude-cidrs",
        pflag.STRING_SLICE,
        (),
        "ipvs.excludeCIDRs",
        "unused",
        no_effect=f"{_NO_IPVS}. A cleanup removes all virtual servers, as that of kube-proxy",
    ),
    known(
        "ipvs-strict-arp",
        pflag.BOOL,
        False,
        "ipvs.strictARP",
        "unused",
        no_effect="no address of a Service is put on a device",
    ),
    known("ipvs-tcp-timeout", pflag.DURATION, 0.0, "ipvs.tcpTimeout", "unused", no_effect=_NO_IPVS),
    known(
        "ipvs-tcpfin-timeout",
        pflag.DURATION,
        0.0,
        "ipvs.tcpFinTimeout",
        "unused",
        no_effect=_NO_IPVS,
    ),
    known("ipvs-udp-timeout", pflag.DURATION, 0.0, "ipvs.udpTimeout", "unused", no_effect=_NO_IPVS),
    known(
        "detect-local-mode",
        pflag.LOCAL_MODE,
        "",
        "detectLocalMode",
        "ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix",
    ),
    known(
        "pod-bridge-interface",
        pflag.STRING,
        "",
        "detectLocal.bridgeInterface",
        "the bridge of local pods, in mode BridgeInterface",
    ),
    known(
        "pod-interface-name-prefix",
        pflag.STRING,
        "",
        "detectLocal.interfaceNamePrefix",
        "how interfaces of local pods begin, in mode InterfaceNamePrefix",
    ),
    known("cluster-cidr", pflag.STRING, "", "clusterCIDR", "CIDRs of the pods, one per family"),
    known(
        "nodeport-addresses",
        pflag.STRING_SLICE,
        (),
        "nodePortAddresses",
        'CIDRs whose addresses serve node ports, or "primary"',
    ),
)

CONNTRACK = (
    known(
        "conntrack-max-per-core",
        pflag.INT32,
        32768,
        "conntrack.maxPerCore",
        "entries of nf_conntrack for each processor; 0 leaves the limit as it is",
    ),
    known(
        "conntrack-min",
        pflag.INT32,
        131072,
        "conntrack.min",
        "least entries of nf_conntrack, whatever --conntrack-max-per-core says",
    ),
    known(
        "conntrack-tcp-timeout-established",
        pflag.DURATION,
        86400.0,
        "conntrack.tcpEstablishedTimeout",
        "idle time of established TCP; 0 leaves it as it is",
    ),
    known(
        "conntrack-tcp-timeout-close-wait",
        pflag.DURATION,
        3600.0,
        "conntrack.tcpCloseWaitTimeout",
        "idle time of half-closed TCP; 0 leaves it as it is",
    ),
    known(
        "conntrack-tcp-be-liberal",
        pflag.BOOL,
        False,
        "conntrack.tcpBeLiberal",
        "out-of-window packets are no fault",
    ),
    known(
        "conntrack-udp-timeout",
        pflag.DURATION,
        0.0,
        "conntrack.udpTimeout",
        "idle time of unanswered UDP; 0 leaves it as it is",
    ),
    known(
        "conntrack-udp-timeout-stream",
        pflag.DURATION,
        0.0,
        "conntrack.udpStreamTimeout",
        "idle time of answered UDP; 0 leaves it as it is",
    ),
)
