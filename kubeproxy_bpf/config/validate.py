# SPDX-License-Identifier: Apache-2.0
"""What must hold of a Config. Pure: returns problems that name the setting, raises nothing."""

from __future__ import annotations

import ipaddress

from kubeproxy_bpf.config.schema import Config

NODE_PORTS = (30000, 32767)
"""The API server's default range."""
_FLOWS_MIN = 1024
_CHOICES = {
    "xdp": ("off", "auto", "native", "generic"),
    "local_source": ("preserve", "masquerade"),
    "forwarding": ("snat", "dsr", "hybrid"),
    "algorithm": ("random", "maglev"),
}
_TIMEOUTS = {
    "tcp_established_s": "tcpEstablishedTimeout",
    "tcp_close_wait_s": "tcpCloseWaitTimeout",
    "udp_s": "udpTimeout",
    "udp_stream_s": "udpStreamTimeout",
}
_LOCAL_MODES = ("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")


def validate(config: Config) -> list[str]:
    """Return every problem of the configuration, in the order of its fields."""
    return [
        *_addresses(config),
        *_local_mode(config),
        *_node_port_addresses(config),
        *_packets(config),
        *_numbers(config),
    ]


def split_host_port(text: str) -> tuple[str, int]:
    """``1.2.3.4:80`` or ``[::]:80`` to host and port; ValueError if it is neither."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f'"{text}" is not address:port')
    host = host.removeprefix("[").removesuffix("]")
    ipaddress.ip_address(host)
    return host, int(port)


def _addresses(config: Config) -> list[str]:
    problems = []
    try:
        ipaddress.ip_address(config.bind_address)
    except ValueError as error:
        problems.append(f"bindAddress: {error}")
    for name in ("healthz", "metrics"):
        try:
            split_host_port(getattr(config, f"{name}_bind_address"))
        except ValueError as error:
            problems.append(f"{name}BindAddress: {error}")
    for part in filter(None, config.cluster_cidr.split(",")):
        if problem := _cidr_problem(part.strip()):
            problems.append(f"clusterCIDR: {problem}")
    return problems


def _cidr_problem(text: str) -> str:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        return str(error)
    return "" if "/" in text else f'"{text}" has no prefix length'


def _local_mode(config: Config) -> list[str]:
    mode = config.detect_local_mode
    if mode not in _LOCAL_MODES:
        return [f'detectLocalMode: "{mode}" is none of {", ".join(_LOCAL_MODES)}']
    if mode == "BridgeInterface" and not config.bridge_interface:
        return ["detectLocal.bridgeInterface: must be set in mode BridgeInterface"]
    if mode == "InterfaceNamePrefix" and not config.interface_name_prefix:
        return ["detectLocal.interfaceNamePrefix: must be set in mode InterfaceNamePrefix"]
    return []


def _node_port_addresses(config: Config) -> list[str]:
    entries = config.node_port_addresses
    if "primary" in entries and len(entries) > 1:
        return ['nodePortAddresses: "primary" must stand alone']
    cidrs = [entry for entry in entries if entry != "primary"]
    problems = (_cidr_problem(entry) for entry in cidrs)
    return [f"nodePortAddresses: {problem}" for problem in problems if problem]


def _packets(config: Config) -> list[str]:
    problems = []
    for field, choices in _CHOICES.items():
        value = getattr(config, field)
        if value not in choices:
            flag = f"--bpf-{field.replace('_', '-')}"
            problems.append(f'{flag}: "{value}" is none of {", ".join(choices)}')
    if problem := _snat_ports_problem(*config.snat_ports):
        problems.append(f"--bpf-snat-ports: {problem}")
    if config.max_flows and not _FLOWS_MIN <= config.max_flows <= 1 << 24:
        problems.append(f"--bpf-max-flows: {config.max_flows} is not in {_FLOWS_MIN}..16777216")
    if not config.state_path.startswith("/"):
        problems.append(f'--bpf-state-path: "{config.state_path}" is not an absolute path')
    if config.service_metrics < 0:
        problems.append("--bpf-service-metrics: must not be negative")
    negative = (name for field, name in _TIMEOUTS.items() if getattr(config.conntrack, field) < 0)
    return problems + [f"conntrack.{name}: must not be negative" for name in negative]


def _snat_ports_problem(first: int, last: int) -> str:
    if not 1 <= first <= last <= 65535:
        return f"{first}-{last} is no range within 1-65535"
    if first <= NODE_PORTS[1] and last >= NODE_PORTS[0]:
        return f"{first}-{last} overlaps the node ports {NODE_PORTS[0]}-{NODE_PORTS[1]}"
    return ""


def _numbers(config: Config) -> list[str]:
    problems = []
    sizes = config.map_sizes
    for name in sizes.__struct_fields__:
        if not 1 < getattr(sizes, name) <= 1 << 24:
            problems.append(f"map size of {name}: {getattr(sizes, name)} is not in 2..16777216")
    if config.sync_period_s <= 0:
        problems.append("iptables.syncPeriod: must be positive")
    if not 0 <= config.min_sync_period_s <= config.sync_period_s:
        problems.append("iptables.minSyncPeriod: must be between 0 and syncPeriod")
    if config.logging_format not in ("text", "json"):
        problems.append(f'--logging-format: "{config.logging_format}" is neither text nor json')
    if not config.hostname:
        problems.append("hostnameOverride: the node name is empty")
    return problems
