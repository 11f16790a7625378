# SPDX-License-Identifier: Apache-2.0
"""What must hold of a KubeProxyConfiguration, by kube-proxy's rules and under its field paths.

Pure: returns every problem, raises nothing. Runs on a document with defaults and flags in it,
before anything is touched. Called by ``load``; settings of our own are judged by ``validate_own``.
"""

from __future__ import annotations

from typing import Any, Callable, Iterator, Sequence

from kubeproxy_bpf.config import gates
from kubeproxy_bpf.config.document import (
    Conntrack,
    FormatOptions,
    Ipvs,
    KubeProxyConfiguration,
    Logging,
    VModule,
    json_type,
)
from kubeproxy_bpf.config.gotext import (
    format_duration,
    is_zero_quantity,
    sloppy_cidr,
    sloppy_ip,
)
from kubeproxy_bpf.config.gotext import split_host_port as split_texts

MODES = ("iptables", "ipvs", "nftables")
LOCAL_MODES = ("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")
_ROOT = "KubeProxyConfiguration"
_LINUX = f"{_ROOT}.KubeProxyLinuxConfiguration"
_NOT_NEGATIVE = "must be greater than or equal to 0"
_POSITIVE = "must be greater than 0"
_ONE_OR_PAIR = (
    "must be a either a single CIDR or dual-stack pair of CIDRs "
    "(e.g. [10.100.0.0/16, fde4:8dba:82e1::/48]"
)
_PREVIOUS_VERSION = "1.35"


def validate(document: KubeProxyConfiguration) -> list[str]:
    """Return every problem of the document, in kube-proxy's order."""
    return [*_problems(document)]


def split_host_port(text: str) -> tuple[str, int]:
    """Host and port of an address that holds (``1.2.3.4:80``, ``[::]:80``)."""
    host, port = split_texts(text)
    return sloppy_ip(host), int(port)


def _problems(document: KubeProxyConfiguration) -> Iterator[str]:
    for problem in gates.problems_of(document.feature_gates):
        yield f"{_ROOT}.featureGates: {problem}"
    yield from _mode_sections(document)
    yield from _conntrack(document.conntrack)
    if not -1000 <= (document.oom_score_adj or 0) <= 1000:
        score = document.oom_score_adj
        yield _invalid(f"{_LINUX}.OOMScoreAdj", score, "must be within the range [-1000, 1000]")
    if document.mode not in MODES:
        reason = (
            f"must be {', '.join(MODES)} or blank "
            "(blank means the best-available proxy [currently iptables])"
        )
        yield _invalid(f"{_ROOT}.Mode.ProxyMode", document.mode, reason)
    if document.client_connection.burst < 0:
        burst = document.client_connection.burst
        yield _invalid(f"{_ROOT}.ClientConnection.Burst", burst, _NOT_NEGATIVE)
    yield from _periods(document)
    yield from _addresses(document)
    yield from _node_port_addresses(document.node_port_addresses or [])
    yield from _hidden_metrics(document.show_hidden_metrics_for_version)
    yield from _local_mode(document)
    yield from _logging(document.logging, document.feature_gates)


def _invalid(path: str, value: Any, reason: str) -> str:
    """As the API machinery words it."""
    shown = f'"{value}"' if json_type(value) == "string" else value
    return f"{path}: Invalid value: {shown}: {reason}"


def _duration(path: str, seconds: float, reason: str) -> str:
    return _invalid(path, format_duration(seconds), reason)


def _mode_sections(document: KubeProxyConfiguration) -> Iterator[str]:
    bits = [("KubeProxyIPTablesConfiguration", document.iptables.masquerade_bit)]
    if document.mode == "nftables":
        bits.append(("KubeProxyNFTablesConfiguration", document.nftables.masquerade_bit))
    for section, bit in bits:
        if not 0 <= (bit or 0) <= 31:
            path = f"{_ROOT}.{section}.MasqueradeBit"
            yield _invalid(path, bit, "must be within the range [0, 31]")
    if document.mode == "ipvs":
        yield from _ipvs(document.ipvs)


def _ipvs(section: Ipvs) -> Iterator[str]:
    path = f"{_ROOT}.KubeProxyIPVSConfiguration"
    yield from _not_negative(
        (f"{path}.TCPTimeout", section.tcp_timeout),
        (f"{path}.TCPFinTimeout", section.tcp_fin_timeout),
        (f"{path}.UDPTimeout", section.udp_timeout),
    )
    for position, cidr in enumerate(section.exclude_cidrs or ()):
        if not _is_cidr(cidr):
            yield _invalid(f"{path}.ExcludeCidrs[{position}]", cidr, "must be a valid CIDR")


def _conntrack(section: Conntrack) -> Iterator[str]:
    path = f"{_LINUX}.KubeProxyConntrackConfiguration"
    for name, value in (("MaxPerCore", section.max_per_core), ("Min", section.min)):
        if (value or 0) < 0:
            yield _invalid(f"{path}.{name}", value, _NOT_NEGATIVE)
    yield from _not_negative(
        (f"{path}.TCPEstablishedTimeout", section.tcp_established_timeout or 0),
        (f"{path}.TCPCloseWaitTimeout", section.tcp_close_wait_timeout or 0),
        (f"{path}.UDPTimeout", section.udp_timeout),
        (f"{path}.UDPStreamTimeout", section.udp_stream_timeout),
    )


def _not_negative(*durations: tuple[str, float]) -> Iterator[str]:
    for path, seconds in durations:
        if seconds < 0:
            yield _duration(path, seconds, _NOT_NEGATIVE)


def _periods(document: KubeProxyConfiguration) -> Iterator[str]:
    if document.config_sync_period <= 0:
        yield _duration(f"{_ROOT}.ConfigSyncPeriod", document.config_sync_period, _POSITIVE)
    if document.mode not in MODES:
        return
    section = getattr(document, document.mode)
    if section.sync_period <= 0:
        yield _duration(f"{_ROOT}.SyncPeriod", section.sync_period, _POSITIVE)
    yield from _not_negative((f"{_ROOT}.MinSyncPeriod", section.min_sync_period))
    if section.min_sync_period > section.sync_period:
        reason = f"must be greater than or equal to {_ROOT}.MinSyncPeriod"
        yield _duration(f"{_ROOT}.SyncPeriod", section.min_sync_period, reason)


def _addresses(document: KubeProxyConfiguration) -> Iterator[str]:
    if not _is_ip(document.bind_address):
        reason = "not a valid textual representation of an IP address"
        yield _invalid(f"{_ROOT}.BindAddress", document.bind_address, reason)
    # Without an address there is no server of health; metrics are always served.
    if document.healthz_bind_address:
        yield from _host_port(f"{_ROOT}.HealthzBindAddress", document.healthz_bind_address)
    yield from _host_port(f"{_ROOT}.MetricsBindAddress", document.metrics_bind_address)


def _host_port(path: str, text: str) -> Iterator[str]:
    try:
        host, port = split_texts(text)
    except ValueError:
        yield _invalid(path, text, "must be IP:port")
        return
    if not _is_ip(host):
        yield _invalid(path, host, "must be a valid IP")
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        yield _invalid(path, port, "must be a valid port")


def _node_port_addresses(entries: Sequence[str]) -> Iterator[str]:
    for position, entry in enumerate(entries):
        path = f"{_ROOT}.NodePortAddresses[{position}]"
        if entry == "primary":
            if len(entries) != 1:
                yield _invalid(path, entry, "can't use both 'primary' and CIDRs")
            return
        if not _is_cidr(entry):
            yield _invalid(path, entry, "must be a valid CIDR")


def _hidden_metrics(version: str) -> Iterator[str]:
    if version not in ("", _PREVIOUS_VERSION):
        reason = (
            "--show-hidden-metrics-for-version must be omitted or have the value "
            f"'{_PREVIOUS_VERSION}'. Only the previous minor version is allowed"
        )
        yield _invalid(f"{_ROOT}.ShowHiddenMetricsForVersion", version, reason)


def _local_mode(document: KubeProxyConfiguration) -> Iterator[str]:
    mode, path = document.detect_local_mode, f"{_ROOT}.DetectLocalConfiguration"
    if mode not in LOCAL_MODES:
        known = ", ".join(f'"{name}"' for name in (*LOCAL_MODES, ""))
        yield f'{_ROOT}.DetectLocalMode: Unsupported value: "{mode}": supported values: {known}'
    detect = document.detect_local
    if mode == "BridgeInterface" and not detect.bridge_interface:
        yield _invalid(f"{path}.InterfaceName", "", "must not be empty")
    if mode == "InterfaceNamePrefix" and not detect.interface_name_prefix:
        yield _invalid(f"{path}.InterfacePrefix", "", "must not be empty")
    if mode == "ClusterCIDR" and document.cluster_cidr:
        yield from _cluster_cidrs(f"{path}.ClusterCIDRs", document.cluster_cidr.split(","))


def _cluster_cidrs(path: str, cidrs: Sequence[str]) -> Iterator[str]:
    shown = f"[{', '.join(cidrs)}]"
    if len(cidrs) > 2:
        yield f"{path}: Invalid value: {shown}: {_ONE_OR_PAIR}"
        return
    bad = [(position, cidr) for position, cidr in enumerate(cidrs) if not _is_cidr(cidr)]
    for position, cidr in bad:
        reason = "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)"
        yield _invalid(f"{path}[{position}]", cidr, reason)
    if len(cidrs) == 2 and not bad and len({":" in cidr for cidr in cidrs}) == 1:
        yield f"{path}: Invalid value: {shown}: {_ONE_OR_PAIR}"


def _logging(section: Logging, feature_gates: dict[str, bool]) -> Iterator[str]:
    path = f"{_ROOT}.logging"
    if section.format not in ("text", "json"):
        yield _invalid(f"{path}.format", section.format, "Unsupported log format")
    if section.format == "json" and section.vmodule:
        yield f"{path}.vmodule: Forbidden: Only supported for text log format"
    if section.flush_frequency <= 0:
        yield _duration(f"{path}.flushFrequency", section.flush_frequency, _POSITIVE)
    if section.verbosity >= 2**31:
        yield _invalid(f"{path}.verbosity", section.verbosity, f"Must be <= {2**31 - 1}")
    for position, item in enumerate(section.vmodule):
        yield from _vmodule(f"{path}.vmodule[{position}]", item)
    if not gates.enabled(feature_gates, "LoggingAlphaOptions"):
        yield from _alpha_options(f"{path}.options", section.options)


def _vmodule(path: str, item: VModule) -> Iterator[str]:
    if not item.file_pattern:
        yield f"{path}: Required value: File pattern must not be empty"
    if set("=,") & set(item.file_pattern):
        reason = "File pattern must not contain equal sign or comma"
        yield _invalid(path, item.file_pattern, reason)
    if item.verbosity >= 2**31:
        yield _invalid(path, item.verbosity, f"Must be <= {2**31 - 1}")


def _alpha_options(path: str, options: FormatOptions) -> Iterator[str]:
    reason = "Feature LoggingAlphaOptions is disabled"
    for style, routing in (("text", options.text), ("json", options.json)):
        if routing.split_stream:
            yield f"{path}.{style}.splitStream: Forbidden: {reason}"
        if not is_zero_quantity(routing.info_buffer_size):
            yield f"{path}.{style}.infoBufferSize: Forbidden: {reason}"


def _is_ip(text: str) -> bool:
    return _holds(sloppy_ip, text)


def _is_cidr(text: str) -> bool:
    return _holds(sloppy_cidr, text)


def _holds(parse: Callable[[str], str], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True
