# SPDX-License-Identifier: Apache-2.0
"""What a KubeProxyConfiguration means where it says nothing, by kube-proxy's rules.

``fill`` runs before flags are laid over the document, ``resolve`` after. Neither judges. Called by
``load``.
"""

from __future__ import annotations

from kubeproxy_bpf.config.document import Duration, FlushFrequency, KubeProxyConfiguration
from kubeproxy_bpf.config.gotext import sloppy_ip, with_port

HEALTHZ_PORT = 10256
METRICS_PORT = 10249
MASQUERADE_BIT = 14


def fill(document: KubeProxyConfiguration) -> None:
    """Give zero values their defaults.

    Only the least time between syncs differs from kube-proxy: it stays 0, see docs/flags.md.
    """
    _addresses(document)
    _periods(document)
    _conntrack(document)
    if document.oom_score_adj is None:
        document.oom_score_adj = -999
    for section in (document.iptables, document.nftables):
        if section.masquerade_bit is None:
            section.masquerade_bit = MASQUERADE_BIT
    if document.iptables.localhost_node_ports is None:
        document.iptables.localhost_node_ports = True
    connection = document.client_connection
    connection.content_type = connection.content_type or "application/vnd.kubernetes.protobuf"
    connection.qps = connection.qps or 5.0
    connection.burst = connection.burst or 10
    document.logging.format = document.logging.format or "text"


def resolve(document: KubeProxyConfiguration) -> None:
    """Settle what depends on several fields; what the mode does not use is shown as unset."""
    document.mode = document.mode or "iptables"
    document.detect_local_mode = document.detect_local_mode or "ClusterCIDR"
    if document.mode == "nftables" and not document.node_port_addresses:
        # The one difference between the modes that clients can see from outside [F14].
        document.node_port_addresses = ["primary"]
    for mode, section in (
        ("iptables", document.iptables),
        ("ipvs", document.ipvs),
        ("nftables", document.nftables),
    ):
        if mode != document.mode:
            section.sync_period = section.min_sync_period = Duration(0)
    if document.mode == "nftables":
        document.iptables.masquerade_all = False
    else:
        document.nftables.masquerade_all = False


def _addresses(document: KubeProxyConfiguration) -> None:
    document.bind_address = document.bind_address or "0.0.0.0"
    # What is no address counts as IPv6 to kube-proxy too; it is refused later.
    unspecified, loopback = "[::]", "[::1]"
    try:
        if ":" not in sloppy_ip(document.bind_address):
            unspecified, loopback = "0.0.0.0", "127.0.0.1"
    except ValueError:
        pass
    document.healthz_bind_address = with_port(
        document.healthz_bind_address or f"{unspecified}:{HEALTHZ_PORT}", HEALTHZ_PORT
    )
    document.metrics_bind_address = with_port(
        document.metrics_bind_address or f"{loopback}:{METRICS_PORT}", METRICS_PORT
    )


def _periods(document: KubeProxyConfiguration) -> None:
    for section in (document.iptables, document.ipvs, document.nftables):
        section.sync_period = section.sync_period or Duration(30)
    document.config_sync_period = document.config_sync_period or Duration(900)
    document.logging.flush_frequency = document.logging.flush_frequency or FlushFrequency(5)


def _conntrack(document: KubeProxyConfiguration) -> None:
    section = document.conntrack
    if section.max_per_core is None:
        section.max_per_core = 32768
    if section.min is None:
        section.min = 131072
    if section.tcp_established_timeout is None:
        section.tcp_established_timeout = Duration(86400)
    if section.tcp_close_wait_timeout is None:
        section.tcp_close_wait_timeout = Duration(3600)
