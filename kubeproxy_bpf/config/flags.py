# SPDX-License-Identifier: Apache-2.0
"""The flags of kube-proxy 1.36: what each is, which field it sets, and what it does here.

One table feeds the parser, the help, docs/flags.md and the log lines about settings that change
nothing. How a flag meets the configuration file is in ``load``; flags of our own are in ``own``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kubeproxy_bpf.config import pflag
from kubeproxy_bpf.config.pflag import Flag, FlagType

IMPLEMENTED = "implemented"
WITHOUT_EFFECT = "accepted without effect"
REFUSED = "refused"


class KnownFlag(NamedTuple):
    """A flag of kube-proxy and what becomes of it."""

    flag: Flag
    field: str
    """Path in KubeProxyConfiguration; empty: it has none."""
    beside: bool
    """Whether it counts beside --config too."""
    status: str
    note: str
    """Why it has no effect, or what is worth knowing."""


def _known(
    name: str,
    kind: FlagType,
    default: Any,
    field: str,
    help: str,
    *,
    beside: bool = False,
    no_effect: str = "",
    note: str = "",
    short: str = "",
    deprecated: str = "",
) -> KnownFlag:
    flag = Flag(name, kind, default, help, short, deprecated)
    status = WITHOUT_EFFECT if no_effect else IMPLEMENTED
    return KnownFlag(flag, field, beside, status, no_effect or note)


_USE_ADDRESS = "This flag is deprecated and will be removed in a future release."
_NO_IPVS = "no IPVS is used; validated in mode ipvs as kube-proxy does"
_NO_LIMIT = "three watches and a few lists are all that is asked of the API server"
_ALPHA_LOG = "the log is one unbuffered stream; as in kube-proxy, LoggingAlphaOptions must be on"

PROCESS = (
    _known("help", pflag.BOOL, False, "", "show this help", beside=True, short="h"),
    _known(
        "version",
        pflag.VERSION,
        "false",
        "",
        "--version, --version=raw prints version information and quits",
        beside=True,
        note="a value that begins with v is accepted, the reported version stays what it is",
    ),
    _known(
        "config",
        pflag.STRING,
        "",
        "",
        "path of the configuration file",
        beside=True,
        note="a write to the file or its renaming ends the process with an error; "
        "a ConfigMap that the kubelet swaps is logged and counts from the next start, "
        "as in kube-proxy",
    ),
    _known(
        "write-config-to",
        pflag.STRING,
        "",
        "",
        "write the effective configuration to this file and exit",
        beside=True,
    ),
    _known(
        "cleanup",
        pflag.BOOL,
        False,
        "",
        "remove everything of this proxy and of kube-proxy from the node, and exit",
        beside=True,
    ),
    _known(
        "init-only",
        pflag.BOOL,
        False,
        "",
        "do what needs more privileges than the daily work, and exit",
        beside=True,
    ),
    _known(
        "hostname-override",
        pflag.STRING,
        "",
        "hostnameOverride",
        "name of the Node object, if not the host name",
        beside=True,
    ),
    _known(
        "master",
        pflag.STRING,
        "",
        "",
        "URL of the API server, overrides the kubeconfig",
        beside=True,
    ),
    _known(
        "oom-score-adj",
        pflag.INT32,
        -999,
        "oomScoreAdj",
        "oom-score-adj value of the process, within [-1000, 1000]",
    ),
    _known(
        "boot-id-file",
        pflag.STRING,
        "/proc/sys/kernel/random/boot_id",
        "",
        "unused",
        beside=True,
        no_effect="nor has it in kube-proxy, where a library brings it along",
    ),
    _known(
        "machine-id-file",
        pflag.STRING,
        "/etc/machine-id,/var/lib/dbus/machine-id",
        "",
        "unused",
        beside=True,
        no_effect="nor has it in kube-proxy, where a library brings it along",
    ),
)

API = (
    _known(
        "kubeconfig",
        pflag.STRING,
        "",
        "clientConnection.kubeconfig",
        "path of a kubeconfig; empty: in-cluster",
    ),
    _known(
        "kube-api-content-type",
        pflag.STRING,
        "application/vnd.kubernetes.protobuf",
        "clientConnection.contentType",
        "content type of requests",
        no_effect="JSON is asked for, which every API server speaks",
    ),
    _known(
        "kube-api-burst",
        pflag.INT32,
        10,
        "clientConnection.burst",
        "burst of requests to the API server",
        no_effect=_NO_LIMIT,
    ),
    _known(
        "kube-api-qps",
        pflag.FLOAT32,
        5.0,
        "clientConnection.qps",
        "requests a second to the API server",
        no_effect=_NO_LIMIT,
    ),
    _known(
        "config-sync-period",
        pflag.DURATION,
        900.0,
        "configSyncPeriod",
        "how often objects of the API are handed out again",
        no_effect="what failed is tried again by itself, nothing has to be handed out twice",
    ),
    _known("feature-gates", pflag.MAP_STRING_BOOL, {}, "featureGates", "name=true,..."),
)

SERVING = (
    _known(
        "bind-address",
        pflag.IP,
        "0.0.0.0",
        "bindAddress",
        "overrides the node's primary address; no socket is bound to it",
    ),
    _known(
        "healthz-bind-address",
        pflag.IP_PORT,
        "0.0.0.0:10256",
        "healthzBindAddress",
        "address and port of /healthz and /livez",
    ),
    _known(
        "metrics-bind-address",
        pflag.IP_PORT,
        "127.0.0.1:10249",
        "metricsBindAddress",
        "address and port of /metrics",
    ),
    _known(
        "healthz-port",
        pflag.INT32,
        10256,
        "",
        "port for an address of health that has none; 0 disables the server",
        deprecated=_USE_ADDRESS + " Please use --healthz-bind-address instead.",
    ),
    _known(
        "metrics-port",
        pflag.INT32,
        10249,
        "",
        "port for an address of metrics that has none",
        deprecated=_USE_ADDRESS + " Please use --metrics-bind-address instead.",
        note="0 is refused, as in kube-proxy",
    ),
    _known(
        "bind-address-hard-fail",
        pflag.BOOL,
        False,
        "bindAddressHardFail",
        "end when a server cannot listen, instead of trying again",
    ),
    _known(
        "profiling",
        pflag.BOOL,
        False,
        "enableProfiling",
        "/debug/flags on the metrics server",
        note="there are no Go profiles to serve",
    ),
    _known(
        "show-hidden-metrics-for-version",
        pflag.STRING,
        "",
        "showHiddenMetricsForVersion",
        "previous version whose hidden metrics are shown",
        no_effect="no metric is hidden",
    ),
)

PROXY = (
    _known(
        "proxy-mode",
        pflag.PROXY_MODE,
        "",
        "mode",
        "iptables, ipvs or nftables: accepted, eBPF serves",
        note="decides what differs between the modes: which node addresses serve node ports, "
        "which section of the file counts, what /proxyMode says",
    ),
    _known(
        "iptables-masquerade-bit",
        pflag.INT32,
        14,
        "iptables.masqueradeBit",
        "bit of the packet mark that means masquerade, within [0, 31]",
        no_effect="packets are masqueraded without a mark",
    ),
    _known(
        "masquerade-all",
        pflag.BOOL,
        False,
        "iptables.masqueradeAll",
        "masquerade all traffic to cluster IPs",
        note="in mode nftables: nftables.masqueradeAll",
    ),
    _known(
        "iptables-localhost-nodeports",
        pflag.BOOL,
        True,
        "iptables.localhostNodePorts",
        "serve node ports on loopback addresses",
    ),
    _known(
        "iptables-sync-period",
        pflag.DURATION,
        30.0,
        "iptables.syncPeriod",
        "retry period of a failed sync; twice this is the time-out of health",
        note="in mode nftables: nftables.syncPeriod",
    ),
    _known(
        "iptables-min-sync-period",
        pflag.DURATION,
        0.0,
        "iptables.minSyncPeriod",
        "least time between two syncs",
        note="kube-proxy's default is 1s, as its syncs are dear; here nothing said means 0s, a "
        "change is programmed at once. In mode nftables: nftables.minSyncPeriod",
    ),
    _known(
        "ipvs-sync-period",
        pflag.DURATION,
        30.0,
        "ipvs.syncPeriod",
        "as --iptables-sync-period, in mode ipvs",
    ),
    _known(
        "ipvs-min-sync-period",
        pflag.DURATION,
        0.0,
        "ipvs.minSyncPeriod",
        "as --iptables-min-sync-period, in mode ipvs",
        note="kube-proxy's help shows 1s",
    ),
    _known("ipvs-scheduler", pflag.STRING, "", "ipvs.scheduler", "unused", no_effect=_NO_IPVS),
    _known(
        "ipvs-exclude-cidrs",
        pflag.STRING_SLICE,
        (),
        "ipvs.excludeCIDRs",
        "unused",
        no_effect=_NO_IPVS,
    ),
    _known(
        "ipvs-strict-arp",
        pflag.BOOL,
        False,
        "ipvs.strictARP",
        "unused",
        no_effect="no address of a Service is put on a device",
    ),
    _known(
        "ipvs-tcp-timeout", pflag.DURATION, 0.0, "ipvs.tcpTimeout", "unused", no_effect=_NO_IPVS
    ),
    _known(
        "ipvs-tcpfin-timeout",
        pflag.DURATION,
        0.0,
        "ipvs.tcpFinTimeout",
        "unused",
        no_effect=_NO_IPVS,
    ),
    _known(
        "ipvs-udp-timeout", pflag.DURATION, 0.0, "ipvs.udpTimeout", "unused", no_effect=_NO_IPVS
    ),
    _known(
        "detect-local-mode",
        pflag.LOCAL_MODE,
        "",
        "detectLocalMode",
        "ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix",
    ),
    _known(
        "pod-bridge-interface",
        pflag.STRING,
        "",
        "detectLocal.bridgeInterface",
        "the bridge of local pods, in mode BridgeInterface",
    ),
    _known(
        "pod-interface-name-prefix",
        pflag.STRING,
        "",
        "detectLocal.interfaceNamePrefix",
        "how interfaces of local pods begin, in mode InterfaceNamePrefix",
    ),
    _known("cluster-cidr", pflag.STRING, "", "clusterCIDR", "CIDRs of the pods, one per family"),
    _known(
        "nodeport-addresses",
        pflag.STRING_SLICE,
        (),
        "nodePortAddresses",
        'CIDRs whose addresses serve node ports, or "primary"',
    ),
)

CONNTRACK = (
    _known(
        "conntrack-max-per-core",
        pflag.INT32,
        32768,
        "conntrack.maxPerCore",
        "entries of nf_conntrack for each processor; 0 leaves the limit as it is",
    ),
    _known(
        "conntrack-min",
        pflag.INT32,
        131072,
        "conntrack.min",
        "least entries of nf_conntrack, whatever --conntrack-max-per-core says",
    ),
    _known(
        "conntrack-tcp-timeout-established",
        pflag.DURATION,
        86400.0,
        "conntrack.tcpEstablishedTimeout",
        "idle time of established TCP; 0 leaves it as it is",
    ),
    _known(
        "conntrack-tcp-timeout-close-wait",
        pflag.DURATION,
        3600.0,
        "conntrack.tcpCloseWaitTimeout",
        "idle time of half-closed TCP; 0 leaves it as it is",
    ),
    _known(
        "conntrack-tcp-be-liberal",
        pflag.BOOL,
        False,
        "conntrack.tcpBeLiberal",
        "out-of-window packets are no fault",
    ),
    _known(
        "conntrack-udp-timeout",
        pflag.DURATION,
        0.0,
        "conntrack.udpTimeout",
        "idle time of unanswered UDP; 0 leaves it as it is",
    ),
    _known(
        "conntrack-udp-timeout-stream",
        pflag.DURATION,
        0.0,
        "conntrack.udpStreamTimeout",
        "idle time of answered UDP; 0 leaves it as it is",
    ),
)

LOGGING = (
    _known(
        "v", pflag.LEVEL, 0, "logging.verbosity", "verbosity of the log", beside=True, short="v"
    ),
    _known(
        "vmodule",
        pflag.VMODULE,
        (),
        "logging.vmodule",
        "unused",
        beside=True,
        no_effect="it names source files of kube-proxy",
    ),
    _known("logging-format", pflag.STRING, "text", "logging.format", "text or json", beside=True),
    _known(
        "log-flush-frequency",
        pflag.DURATION,
        5.0,
        "logging.flushFrequency",
        "unused",
        beside=True,
        no_effect="each line is written at once",
    ),
    *(
        _known(
            f"log-{style}-split-stream",
            pflag.BOOL,
            False,
            f"logging.options.{style}.splitStream",
            "unused",
            beside=True,
            no_effect=_ALPHA_LOG,
        )
        for style in ("text", "json")
    ),
    *(
        _known(
            f"log-{style}-info-buffer-size",
            pflag.QUANTITY,
            "0",
            f"logging.options.{style}.infoBufferSize",
            "unused",
            beside=True,
            no_effect=_ALPHA_LOG,
        )
        for style in ("text", "json")
    ),
)

KUBE_PROXY_FLAGS = (*PROCESS, *API, *SERVING, *PROXY, *CONNTRACK, *LOGGING)

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
