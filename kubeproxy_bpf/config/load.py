# SPDX-License-Identifier: Apache-2.0
"""Flags and file to ``Config``.

Flags are a table (``FLAGS``); with ``--config`` the file replaces what flags say, except those that
kube-proxy honours beside a file (``parity``: hostname, logging, and our own ``--bpf-*``).
Validation is in ``validate``.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Mapping, Sequence

import msgspec
import yaml

from kubeproxy_bpf.config.pflag import (
    Flag,
    FlagSet,
    parse_bool,
    parse_bool_map,
    parse_duration,
    parse_int,
    parse_list,
    parse_port_range,
)
from kubeproxy_bpf.config.schema import (
    Config,
    ConntrackSection,
    ConntrackTimeouts,
    KubeProxyConfiguration,
    MapSizes,
)
from kubeproxy_bpf.config.validate import validate
from kubeproxy_bpf.errors import ConfigError

_SIZES = MapSizes()
_TIMEOUTS = ConntrackTimeouts()

FLAGS = FlagSet(
    [
        Flag("help", parse_bool, False, "show this help", "h", "true"),
        Flag("version", str, "false", "print the version and exit", "", "true"),
        Flag("config", str, "", "path of a KubeProxyConfiguration file"),
        Flag("hostname-override", str, "", "name of the Node object, if not the host name"),
        Flag("kubeconfig", str, "", "path of a kubeconfig; empty: in-cluster"),
        Flag("master", str, "", "URL of the API server, overrides the kubeconfig"),
        Flag("bind-address", str, "0.0.0.0", "overrides the node's primary address"),
        Flag("healthz-bind-address", str, "0.0.0.0:10256", "address of /healthz and /livez"),
        Flag("metrics-bind-address", str, "127.0.0.1:10249", "address of /metrics"),
        Flag("proxy-mode", str, "", "iptables, ipvs or nftables: accepted; eBPF is used"),
        Flag("cluster-cidr", str, "", "CIDRs of the pods, one per family"),
        Flag("detect-local-mode", str, "ClusterCIDR", "how pod-local sources are told apart"),
        Flag("pod-bridge-interface", str, "", "for BridgeInterface mode"),
        Flag("pod-interface-name-prefix", str, "", "for InterfaceNamePrefix mode"),
        Flag("nodeport-addresses", parse_list, (), "CIDRs whose addresses serve node ports"),
        Flag(
            "iptables-localhost-nodeports",
            parse_bool,
            True,
            "serve node ports on loopback addresses",
            "",
            "true",
        ),
        Flag("iptables-sync-period", parse_duration, 30.0, "retry period of a failed sync"),
        Flag("iptables-min-sync-period", parse_duration, 0.0, "least time between syncs"),
        Flag("masquerade-all", parse_bool, False, "masquerade all service traffic", "", "true"),
        Flag(
            "conntrack-tcp-timeout-established",
            parse_duration,
            _TIMEOUTS.tcp_established_s,
            "idle time of established TCP flows; 0: as the kernel's conntrack",
        ),
        Flag(
            "conntrack-tcp-timeout-close-wait",
            parse_duration,
            _TIMEOUTS.tcp_close_wait_s,
            "idle time of half-closed TCP flows; 0: as the kernel's conntrack",
        ),
        Flag(
            "conntrack-udp-timeout",
            parse_duration,
            _TIMEOUTS.udp_s,
            "idle time of unanswered UDP flows; 0: as the kernel's conntrack",
        ),
        Flag(
            "conntrack-udp-timeout-stream",
            parse_duration,
            _TIMEOUTS.udp_stream_s,
            "idle time of answered UDP flows; 0: as the kernel's conntrack",
        ),
        Flag("feature-gates", parse_bool_map, {}, "name=true,... "),
        Flag("v", parse_int, 0, "log verbosity", "v"),
        Flag("logging-format", str, "text", "text or json"),
        Flag("bpf-cgroup-root", str, "", "cgroup2 directory to hook; empty: found in mountinfo"),
        Flag("bpf-pin-path", str, "/sys/fs/bpf/kube-proxy", "directory on a bpffs for our pins"),
        Flag("bpf-tcp-origin", parse_bool, True, "getpeername shows the VIP", "", "true"),
        Flag(
            "bpf-local-source", str, "masquerade", "what local backends see: preserve, masquerade"
        ),
        Flag(
            "bpf-snat-ports",
            parse_port_range,
            (10000, 29999),
            "source ports of masqueraded flows, first-last",
        ),
        Flag(
            "bpf-forwarding", str, "snat", "remote backends' answers: snat, dsr, hybrid (TCP dsr)"
        ),
        Flag("bpf-devices", parse_list, (), "uplinks, names or globs; empty: found by themselves"),
        Flag("bpf-xdp", str, "off", "XDP at uplinks: off, auto, native, generic"),
        Flag("bpf-algorithm", str, "random", "choice of backends: random, maglev (consistent)"),
        Flag(
            "bpf-redirect-peer",
            parse_bool,
            False,
            "packets go straight into local pods, past the host's netfilter and its policies",
            "",
            "true",
        ),
        Flag("bpf-state-path", str, "/run/kube-proxy-bpf", "directory for what cleanup must undo"),
        Flag("bpf-max-flows", parse_int, 0, "entries of flows, two or four each; 0: from memory"),
        Flag("bpf-service-metrics", parse_int, 100, "services with metrics of their own; 0: none"),
        Flag("bpf-max-frontends", parse_int, _SIZES.frontends, "entries of vips and frontends"),
        Flag("bpf-max-services", parse_int, _SIZES.services, "entries of services"),
        Flag("bpf-max-slots", parse_int, _SIZES.slots, "entries of slots"),
        Flag("bpf-max-backends", parse_int, _SIZES.backends, "entries of backends"),
        Flag("bpf-max-affinity", parse_int, _SIZES.affinity, "entries of affinity"),
    ]
)


def load(argv: Sequence[str]) -> Config:
    """Read flags, and the file they name, into a validated Config.

    Raises:
        ConfigError: with every problem found.
    """
    return from_flags(FLAGS.parse(argv))


def from_flags(given: Mapping[str, Any]) -> Config:
    """Like ``load``, from flags that are already parsed."""
    flags = {**FLAGS.defaults(), **given}
    fields = _common(flags) | _packets(flags)
    mode = flags["proxy-mode"]
    if flags["config"]:
        file = read_file(flags["config"])
        mode = file.mode
        fields |= _from_file(file, flags)
    else:
        fields |= _from_flags_alone(flags)
    if mode == "nftables" and not fields["node_port_addresses"]:
        # The one difference between the modes that clients can see from outside [F14].
        fields["node_port_addresses"] = ("primary",)
    config = Config(**fields)
    problems = validate(config)
    if mode not in ("", "iptables", "ipvs", "nftables"):
        problems.append(f'mode: unknown proxy mode "{mode}"')
    if "hostname-override" in given and not given["hostname-override"].strip():
        problems.append("--hostname-override: must not be blank")
    if problems:
        raise ConfigError(problems)
    return config


def read_file(path: str) -> KubeProxyConfiguration:
    """Read a KubeProxyConfiguration; nulls and zero values mean "use the default"."""
    try:
        document = yaml.load(Path(path).read_text(), Loader=yaml.CSafeLoader)
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigError([f"--config {path}: {error}"]) from None
    if not isinstance(document, dict):
        raise ConfigError([f"--config {path}: is not a YAML object"])
    if document.get("kind") != "KubeProxyConfiguration":
        raise ConfigError([f'--config {path}: kind must be "KubeProxyConfiguration"'])
    try:
        return msgspec.convert(_without_nulls(document), KubeProxyConfiguration)
    except msgspec.ValidationError as error:
        raise ConfigError([f"--config {path}: {error}"]) from None


def _without_nulls(value: Any) -> Any:
    """kubeadm writes every field, unset ones as null."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _common(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "hostname": _hostname(flags["hostname-override"]),
        "master": flags["master"],
        "verbosity": flags["v"],
        "logging_format": flags["logging-format"],
        "cgroup_root": flags["bpf-cgroup-root"],
        "pin_path": os.path.normpath(flags["bpf-pin-path"]),
        "tcp_origin": flags["bpf-tcp-origin"],
        "map_sizes": MapSizes(
            vips=flags["bpf-max-frontends"],
            frontends=flags["bpf-max-frontends"],
            services=flags["bpf-max-services"],
            records=2 * flags["bpf-max-services"],
            slots=flags["bpf-max-slots"],
            backends=flags["bpf-max-backends"],
            affinity=flags["bpf-max-affinity"],
        ),
    }


def _packets(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "devices": tuple(flags["bpf-devices"]),
        "xdp": flags["bpf-xdp"],
        "local_source": flags["bpf-local-source"],
        "snat_ports": flags["bpf-snat-ports"],
        "forwarding": flags["bpf-forwarding"],
        "algorithm": flags["bpf-algorithm"],
        "redirect_peer": flags["bpf-redirect-peer"],
        "max_flows": flags["bpf-max-flows"],
        "state_path": os.path.normpath(flags["bpf-state-path"]),
        "service_metrics": flags["bpf-service-metrics"],
    }


def _from_flags_alone(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kubeconfig": flags["kubeconfig"],
        "bind_address": flags["bind-address"] or "0.0.0.0",
        "healthz_bind_address": flags["healthz-bind-address"] or "0.0.0.0:10256",
        "metrics_bind_address": flags["metrics-bind-address"] or "127.0.0.1:10249",
        "cluster_cidr": flags["cluster-cidr"],
        "detect_local_mode": flags["detect-local-mode"] or "ClusterCIDR",
        "bridge_interface": flags["pod-bridge-interface"],
        "interface_name_prefix": flags["pod-interface-name-prefix"],
        "node_port_addresses": flags["nodeport-addresses"],
        "localhost_node_ports": flags["iptables-localhost-nodeports"],
        "feature_gates": flags["feature-gates"],
        "masquerade_all": flags["masquerade-all"],
        "conntrack": ConntrackTimeouts(
            tcp_established_s=flags["conntrack-tcp-timeout-established"],
            tcp_close_wait_s=flags["conntrack-tcp-timeout-close-wait"],
            udp_s=flags["conntrack-udp-timeout"],
            udp_stream_s=flags["conntrack-udp-timeout-stream"],
        ),
        "sync_period_s": flags["iptables-sync-period"],
        "min_sync_period_s": flags["iptables-min-sync-period"],
    }


def _from_file(file: KubeProxyConfiguration, flags: Mapping[str, Any]) -> dict[str, Any]:
    bind_address = file.bind_address or "0.0.0.0"
    unspecified = "[::]:10256" if ":" in bind_address else "0.0.0.0:10256"
    metrics = "[::1]:10249" if ":" in bind_address else "127.0.0.1:10249"
    localhost = file.iptables.localhost_node_ports
    # Of the modes' sections only that of the mode in use counts, as in kube-proxy.
    section = file.nftables if file.mode == "nftables" else file.iptables
    return {
        "hostname": _hostname(flags["hostname-override"] or file.hostname_override),
        "kubeconfig": file.client_connection.kubeconfig,
        "bind_address": bind_address,
        "healthz_bind_address": file.healthz_bind_address or unspecified,
        "metrics_bind_address": file.metrics_bind_address or metrics,
        "cluster_cidr": file.cluster_cidr,
        "detect_local_mode": file.detect_local_mode or "ClusterCIDR",
        "bridge_interface": file.detect_local.bridge_interface,
        "interface_name_prefix": file.detect_local.interface_name_prefix,
        "node_port_addresses": file.node_port_addresses or (),
        "localhost_node_ports": True if localhost is None else localhost,
        "feature_gates": file.feature_gates,
        "masquerade_all": section.masquerade_all,
        "conntrack": _timeouts(file.conntrack),
    }


def _timeouts(section: ConntrackSection) -> ConntrackTimeouts:
    """The file's time-outs; what it leaves out has the default, "0s" means the kernel's own."""
    given = {}
    for field in section.__struct_fields__:
        text = getattr(section, field)
        if text is None:
            continue
        try:
            given[field.replace("_timeout", "_s")] = parse_duration(text)
        except ValueError as error:
            raise ConfigError([f"conntrack.{_camel(field)}: {error}"]) from None
    return ConntrackTimeouts(**given)


def _camel(field: str) -> str:
    first, *rest = field.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _hostname(override: str) -> str:
    return (override or socket.gethostname()).strip().lower()
