# SPDX-License-Identifier: Apache-2.0
"""Flags and files to ``Config``.

With --config the file takes the place of all flags that set its fields, but for those that
kube-proxy honours beside a file (``KnownFlag.beside``). Settings of our own come from their own
file, and flags beat it. Everything is validated, and every problem told, before anything happens.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Mapping, NamedTuple, Sequence

from kubeproxy_bpf.config import defaults, own, validate_own
from kubeproxy_bpf.config.decode import read_document
from kubeproxy_bpf.config.document import (
    Duration,
    FlushFrequency,
    KubeProxyConfiguration,
    Quantity,
    VModule,
    get_field,
    set_field,
    to_plain,
)
from kubeproxy_bpf.config.flags import KUBE_PROXY_FLAGS
from kubeproxy_bpf.config.gotext import sloppy_cidr, sloppy_ip, with_port
from kubeproxy_bpf.config.known import KnownFlag
from kubeproxy_bpf.config.notes import Note, without_effect
from kubeproxy_bpf.config.pflag import FlagSet
from kubeproxy_bpf.config.schema import Config, ConntrackSysctls, ConntrackTimeouts, MapSizes
from kubeproxy_bpf.config.validate import validate
from kubeproxy_bpf.errors import ConfigError

FLAGS = FlagSet([*(known.flag for known in KUBE_PROXY_FLAGS), own.BPF_CONFIG, *own.SETTINGS])


class Loaded(NamedTuple):
    """The configuration, and what the operator should know of it."""

    config: Config
    notes: list[Note]


def load(argv: Sequence[str]) -> Config:
    """Read flags, and the files they name, into a validated Config.

    Raises:
        ConfigError: with every problem found.
    """
    return read(FLAGS.parse(argv)).config


def read(given: Mapping[str, Any]) -> Loaded:
    """Like ``load``, from flags that are already parsed."""
    flags = {**FLAGS.defaults(), **given}
    problems: list[str] = []
    notes: list[Note] = []
    document, settings = KubeProxyConfiguration(), flags
    try:
        document = _document(given, flags["config"], notes)
    except ConfigError as error:
        problems += error.problems
    else:
        problems += validate(document)
    try:
        settings = _own_settings(given, flags, notes)
    except ConfigError as error:
        problems += error.problems
    problems += validate_own.validate(settings)
    problems += _hostname_problems(given, document)
    if problems:
        raise ConfigError(problems)
    notes += without_effect(document, given, os.environ)
    return Loaded(_config(document, settings, flags, given), notes)


def _document(given: Mapping[str, Any], path: str, notes: list[Note]) -> KubeProxyConfiguration:
    """The document in effect: file or defaults, flags laid over it, all of it resolved."""
    document = KubeProxyConfiguration()
    if path:
        decoded = read_document(path)
        document = decoded.document
        if decoded.overlooked:
            fields = {"path": path, "overlooked": decoded.overlooked}
            notes.append(Note("config_decoded_leniently", fields, warn=False))
    defaults.fill(document)
    known = [known for known in KUBE_PROXY_FLAGS if known.flag.name in given]
    for counts in known:
        if counts.field and (counts.beside or not path):
            _lay_over(document, counts, given[counts.flag.name])
    if not path:
        _ports(document, given)
    elif ignored := [f"--{lost.flag.name}" for lost in known if not lost.beside]:
        notes.append(Note("flags_replaced_by_config", {"flags": ignored}))
    defaults.resolve(document)
    return document


def _lay_over(document: KubeProxyConfiguration, known: KnownFlag, value: Any) -> None:
    """Set the field of a flag; which one depends on the mode for some."""
    name = known.flag.name
    if name in ("bind-address", "healthz-bind-address", "metrics-bind-address") and not value:
        # Go's parser takes an empty address for "say nothing".
        return
    if name == "hostname-override":
        value = value.strip().lower()
    if name == "vmodule":
        items = [VModule(file_pattern=pattern, verbosity=level) for pattern, level in value]
        document.logging.vmodule = items + document.logging.vmodule
        return
    kind = type(get_field(document, known.field))
    if kind in (Duration, FlushFrequency, Quantity):
        value = kind(value)
    elif isinstance(value, tuple):
        value = list(value)
    paths = [known.field]
    if name in ("masquerade-all", "iptables-sync-period", "iptables-min-sync-period"):
        # The flags of iptables are those of nftables too; what the mode does not use is dropped.
        paths.append(known.field.replace("iptables.", "nftables."))
    for path in paths:
        set_field(document, path, value)


def _ports(document: KubeProxyConfiguration, given: Mapping[str, Any]) -> None:
    """The deprecated flags of ports: for addresses without one; 0 empties the address."""
    healthz = given.get("healthz-port", defaults.HEALTHZ_PORT)
    metrics = given.get("metrics-port", defaults.METRICS_PORT)
    document.healthz_bind_address = (
        with_port(document.healthz_bind_address, healthz) if healthz else ""
    )
    document.metrics_bind_address = (
        with_port(document.metrics_bind_address, metrics) if metrics else ""
    )


def _own_settings(
    given: Mapping[str, Any], flags: Mapping[str, Any], notes: list[Note]
) -> dict[str, Any]:
    """Defaults, what the file of our own says, and flags, the last of which counts."""
    path = own.path_of(flags)
    if not path:
        return dict(flags)
    settings = own.read_settings(path)
    said = sorted(name for name in settings if name not in given)
    notes.append(Note("own_settings_read", {"path": path, "settings": said}, warn=False))
    return {**flags, **settings, **given}


def _hostname_problems(given: Mapping[str, Any], document: KubeProxyConfiguration) -> list[str]:
    texts = [given.get("hostname-override"), document.hostname_override]
    said = [text for text in texts if text] or [socket.gethostname()]
    if any(not text.strip() for text in said):
        return ["--hostname-override: empty hostname is invalid"]
    return []


def _config(
    document: KubeProxyConfiguration,
    settings: Mapping[str, Any],
    flags: Mapping[str, Any],
    given: Mapping[str, Any],
) -> Config:
    override = document.hostname_override or socket.gethostname()
    # A document that could not hold has been refused: the mode has a section.
    section = getattr(document, document.mode)
    return Config(
        hostname=override.strip().lower(),
        master=flags["master"],
        config_path=flags["config"],
        own_config_path=own.path_of(flags),
        document=to_plain(document),
        flag_values=FLAGS.texts(dict(given)),
        sync_period_s=float(section.sync_period),
        min_sync_period_s=float(section.min_sync_period),
        **_from_document(document),
        **_from_settings(settings),
    )


def _from_document(document: KubeProxyConfiguration) -> dict[str, Any]:
    cidrs = document.cluster_cidr.split(",") if document.cluster_cidr else []
    if document.detect_local_mode == "ClusterCIDR":
        cidrs = [sloppy_cidr(cidr) for cidr in cidrs]
    addresses = document.node_port_addresses or []
    bit = document.nftables if document.mode == "nftables" else document.iptables
    return {
        "kubeconfig": document.client_connection.kubeconfig,
        "bind_address": sloppy_ip(document.bind_address),
        "healthz_bind_address": document.healthz_bind_address,
        "metrics_bind_address": document.metrics_bind_address,
        "bind_address_hard_fail": document.bind_address_hard_fail,
        "profiling": document.enable_profiling,
        "cluster_cidr": ",".join(cidrs),
        "detect_local_mode": document.detect_local_mode,
        "bridge_interface": document.detect_local.bridge_interface,
        "interface_name_prefix": document.detect_local.interface_name_prefix,
        "node_port_addresses": tuple(
            entry if entry == "primary" else sloppy_cidr(entry) for entry in addresses
        ),
        "localhost_node_ports": bool(document.iptables.localhost_node_ports),
        "feature_gates": dict(document.feature_gates),
        "mode": document.mode,
        "masquerade_all": document.iptables.masquerade_all or document.nftables.masquerade_all,
        "masquerade_bit": bit.masquerade_bit,
        "oom_score_adj": document.oom_score_adj,
        "verbosity": document.logging.verbosity,
        "logging_format": document.logging.format,
        "conntrack": _timeouts(document),
        "conntrack_sysctls": _sysctls(document),
    }


def _timeouts(document: KubeProxyConfiguration) -> ConntrackTimeouts:
    section = document.conntrack
    return ConntrackTimeouts(
        tcp_established_s=float(section.tcp_established_timeout or 0),
        tcp_close_wait_s=float(section.tcp_close_wait_timeout or 0),
        udp_s=float(section.udp_timeout),
        udp_stream_s=float(section.udp_stream_timeout),
    )


def _sysctls(document: KubeProxyConfiguration) -> ConntrackSysctls:
    section, timeouts = document.conntrack, _timeouts(document)
    return ConntrackSysctls(
        max_per_core=section.max_per_core or 0,
        min=section.min or 0,
        tcp_be_liberal=section.tcp_be_liberal,
        tcp_established_s=timeouts.tcp_established_s,
        tcp_close_wait_s=timeouts.tcp_close_wait_s,
        udp_s=timeouts.udp_s,
        udp_stream_s=timeouts.udp_stream_s,
    )


def _from_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "takeover": settings["bpf-takeover"],
        "forward_accept": settings["bpf-forward-accept"],
        "pins": settings["bpf-pins"],
        "cgroup_root": settings["bpf-cgroup-root"],
        "pin_path": os.path.normpath(settings["bpf-pin-path"]),
        "state_path": os.path.normpath(settings["bpf-state-path"]),
        "snapshot_path": settings["bpf-snapshot-path"],
        "audit_period_s": settings["bpf-audit-period"],
        "tcp_origin": settings["bpf-tcp-origin"],
        "devices": tuple(settings["bpf-devices"]),
        "xdp": settings["bpf-xdp"],
        "local_source": settings["bpf-local-source"],
        "snat_ports": settings["bpf-snat-ports"],
        "forwarding": settings["bpf-forwarding"],
        "algorithm": settings["bpf-algorithm"],
        "redirect_peer": settings["bpf-redirect-peer"],
        "max_flows": settings["bpf-max-flows"],
        "service_metrics": settings["bpf-service-metrics"],
        "service_traffic": settings["bpf-service-traffic"],
        "map_sizes": MapSizes(
            vips=settings["bpf-max-frontends"],
            frontends=settings["bpf-max-frontends"],
            services=settings["bpf-max-services"],
            records=2 * settings["bpf-max-services"],
            slots=settings["bpf-max-slots"],
            backends=settings["bpf-max-backends"],
            affinity=settings["bpf-max-affinity"],
        ),
    }
