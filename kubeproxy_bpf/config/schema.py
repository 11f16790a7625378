# SPDX-License-Identifier: Apache-2.0
"""``Config``: what everybody else sees of flags and files; it is immutable.

How a document of kube-proxy becomes one is in ``load``.
"""

from __future__ import annotations

from typing import Any

import msgspec


class MapSizes(msgspec.Struct, frozen=True):
    """Entries of the maps; defaults carry 10,000 Services and 100,000 endpoints."""

    vips: int = 65536
    frontends: int = 65536
    services: int = 32768
    records: int = 65536
    slots: int = 524288
    backends: int = 262144
    affinity: int = 65536
    origins: int = 65536


class ConntrackTimeouts(msgspec.Struct, frozen=True):
    """Idle times of flows; 0 means that of the kernel's own connection tracking."""

    tcp_established_s: float = 86400.0
    tcp_close_wait_s: float = 3600.0
    udp_s: float = 0.0
    udp_stream_s: float = 0.0


class ConntrackSysctls(msgspec.Struct, frozen=True):
    """What of the kernel's own connection tracking is set at the start [J8]; 0 leaves it alone."""

    max_per_core: int = 32768
    min: int = 131072
    tcp_established_s: float = 86400.0
    tcp_close_wait_s: float = 3600.0
    tcp_be_liberal: bool = False
    udp_s: float = 0.0
    udp_stream_s: float = 0.0


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the process was told, defaults filled in."""

    hostname: str
    kubeconfig: str = ""
    master: str = ""
    bind_address: str = "0.0.0.0"
    healthz_bind_address: str = "0.0.0.0:10256"
    metrics_bind_address: str = "127.0.0.1:10249"
    cluster_cidr: str = ""
    detect_local_mode: str = "ClusterCIDR"
    bridge_interface: str = ""
    interface_name_prefix: str = ""
    node_port_addresses: tuple[str, ...] = ()
    localhost_node_ports: bool = True
    feature_gates: dict[str, bool] = msgspec.field(default_factory=dict)
    min_sync_period_s: float = 0.0
    sync_period_s: float = 30.0
    cgroup_root: str = ""
    """Empty: found from /proc/self/mountinfo."""
    pin_path: str = "/sys/fs/bpf/kube-proxy"
    tcp_origin: bool = True
    map_sizes: MapSizes = MapSizes()
    masquerade_all: bool = False
    devices: tuple[str, ...] = ()
    """Uplinks by name or glob; empty: found by themselves."""
    xdp: str = "off"
    """off, auto, native or generic."""
    local_source: str = "masquerade"
    """What local backends see of clients: "preserve" or "masquerade"."""
    snat_ports: tuple[int, int] = (10000, 29999)
    """Source ports of masqueraded flows: the first and the last."""
    forwarding: str = "snat"
    """"snat", "dsr", or "hybrid": dsr for TCP and snat for UDP."""
    algorithm: str = "random"
    """"random", or "maglev" for a consistent choice for every Service."""
    redirect_peer: bool = False
    max_flows: int = 0
    """Entries of flows; 0: as many as the kernel's connection tracking would have."""
    conntrack: ConntrackTimeouts = ConntrackTimeouts()
    state_path: str = "/run/kube-proxy-bpf"
    """Directory for notes of what was changed on the node and must be undone by a cleanup."""
    snapshot_path: str = ""
    """File that keeps the last known API objects over a reboot; empty: none."""
    audit_period_s: float = 60.0
    """How often the maps are compared with what was programmed; 0: never."""
    service_metrics: int = 100
    """So many service ports have metrics of their own."""
    service_traffic: bool = False
    """Count connections, packets and bytes of each service port."""
    verbosity: int = 0
    logging_format: str = "text"
    mode: str = "iptables"
    """The mode of kube-proxy that the operator asked for; decides details, never the datapath."""
    config_path: str = ""
    """The file that ends the process when it changes; empty: none."""
    own_config_path: str = ""
    """The file of our own settings, watched alike."""
    bind_address_hard_fail: bool = False
    profiling: bool = False
    oom_score_adj: int | None = -999
    """None: left as it is."""
    masquerade_bit: int = 14
    conntrack_sysctls: ConntrackSysctls = ConntrackSysctls()
    takeover: str = "clean"
    """What happens to rules that a kube-proxy left: "clean", "report" or "off"."""
    forward_accept: str = "auto"
    """Accept forwarded service traffic where FORWARD's policy is DROP: "auto", "on" or "off"."""
    pins: str = "auto"
    """Maps and links on a host's bpffs: "auto" where there is one, "on" or "off"."""
    document: dict[str, Any] = msgspec.field(default_factory=dict)
    """The effective KubeProxyConfiguration, as /configz shows it."""
    flag_values: dict[str, str] = msgspec.field(default_factory=dict)
    """Every flag and its effective text, as /flagz shows it."""

    def local_detector_families(self) -> tuple[bool, bool]:
        """Whether pod-local sources can be told apart (IPv4, IPv6) [E5, E10].

        NodeCIDR counts for both families here: which pod CIDRs the Node has is known only later,
        and sockets of pods are recognised by their namespace, not by their address.
        """
        if self.detect_local_mode != "ClusterCIDR":
            return True, True
        cidrs = [part.strip() for part in self.cluster_cidr.split(",") if part.strip()]
        return any(":" not in cidr for cidr in cidrs), any(":" in cidr for cidr in cidrs)
