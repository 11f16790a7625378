# SPDX-License-Identifier: Apache-2.0
"""KubeProxyConfiguration v1alpha1: every field, in the order in which kube-proxy writes them.

Structs are mutable: flags are laid over a document before it is judged. Zero values mean "not
said", as in Go; what they become is ``defaults``' business, whether they hold is ``validate``'s.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import yaml

from kubeproxy_bpf.config.gotext import format_duration, parse_duration, parse_quantity

API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"
KIND = "KubeProxyConfiguration"


Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]
Uint32 = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class Duration(float):
    """Seconds; a Go duration in documents."""


class FlushFrequency(Duration):
    """A duration that may also be an integer of nanoseconds, as kubeadm writes it."""


class Quantity(str):
    """A resource quantity; documents may hold it as a number too."""


class Section(msgspec.Struct, kw_only=True, rename="camel"):
    """Base of all parts of the document."""


class ClientConnection(Section):
    kubeconfig: str = ""
    accept_content_types: str = ""
    content_type: str = ""
    qps: float = 0.0
    burst: Int32 = 0


class VModule(Section):
    file_pattern: str = ""
    verbosity: Uint32 = 0


class Routing(Section):
    split_stream: bool = False
    info_buffer_size: Quantity = Quantity("0")


class FormatOptions(Section):
    text: Routing = msgspec.field(default_factory=Routing)
    json: Routing = msgspec.field(default_factory=Routing)


class Logging(Section):
    format: str = ""
    flush_frequency: FlushFrequency = FlushFrequency(0)
    verbosity: Uint32 = 0
    vmodule: list[VModule] = msgspec.field(default_factory=list)
    options: FormatOptions = msgspec.field(default_factory=FormatOptions)


class Iptables(Section):
    masquerade_bit: Int32 | None = None
    masquerade_all: bool = False
    localhost_node_ports: bool | None = None
    sync_period: Duration = Duration(0)
    min_sync_period: Duration = Duration(0)


class Ipvs(Section):
    sync_period: Duration = Duration(0)
    min_sync_period: Duration = Duration(0)
    scheduler: str = ""
    exclude_cidrs: list[str] | None = msgspec.field(default=None, name="excludeCIDRs")
    strict_arp: bool = msgspec.field(default=False, name="strictARP")
    tcp_timeout: Duration = Duration(0)
    tcp_fin_timeout: Duration = Duration(0)
    udp_timeout: Duration = Duration(0)


class Nftables(Section):
    masquerade_bit: Int32 | None = None
    masquerade_all: bool = False
    sync_period: Duration = Duration(0)
    min_sync_period: Duration = Duration(0)


class Winkernel(Section):
    network_name: str = ""
    source_vip: str = ""
    enable_dsr: bool = msgspec.field(default=False, name="enableDSR")
    root_hns_endpoint_name: str = ""
    forward_health_check_vip: bool = msgspec.field(default=False, name="forwardHealthCheckVip")


class DetectLocal(Section):
    bridge_interface: str = ""
    interface_name_prefix: str = ""


class Conntrack(Section):
    max_per_core: Int32 | None = None
    min: Int32 | None = None
    tcp_established_timeout: Duration | None = None
    tcp_close_wait_timeout: Duration | None = None
    tcp_be_liberal: bool = False
    udp_timeout: Duration = Duration(0)
    udp_stream_timeout: Duration = Duration(0)


class KubeProxyConfiguration(Section):
    """The whole document."""

    kind: str = KIND
    api_version: str = API_VERSION
    feature_gates: dict[str, bool] = msgspec.field(default_factory=dict)
    client_connection: ClientConnection = msgspec.field(default_factory=ClientConnection)
    logging: Logging = msgspec.field(default_factory=Logging)
    hostname_override: str = ""
    bind_address: str = ""
    healthz_bind_address: str = ""
    metrics_bind_address: str = ""
    bind_address_hard_fail: bool = False
    enable_profiling: bool = False
    show_hidden_metrics_for_version: str = ""
    mode: str = ""
    iptables: Iptables = msgspec.field(default_factory=Iptables)
    ipvs: Ipvs = msgspec.field(default_factory=Ipvs)
    nftables: Nftables = msgspec.field(default_factory=Nftables)
    winkernel: Winkernel = msgspec.field(default_factory=Winkernel)
    detect_local_mode: str = ""
    detect_local: DetectLocal = msgspec.field(default_factory=DetectLocal)
    cluster_cidr: str = msgspec.field(default="", name="clusterCIDR")
    node_port_addresses: list[str] | None = None
    oom_score_adj: Int32 | None = msgspec.field(default=None, name="oomScoreAdj")
    conntrack: Conntrack = msgspec.field(default_factory=Conntrack)
    config_sync_period: Duration = Duration(0)
    port_range: str = ""
    windows_run_as_service: bool = False


def from_plain(value: Any, kind: Any) -> Any:
    """Convert what YAML or JSON gave; msgspec.ValidationError says what does not fit."""
    return msgspec.convert(value, kind, dec_hook=_decode)


def to_plain(document: KubeProxyConfiguration) -> dict[str, Any]:
    """The document as JSON types: all fields, but for those that Go leaves out when empty."""
    plain: dict[str, Any] = msgspec.to_builtins(document, enc_hook=_encode)
    if document.client_connection.qps.is_integer():
        plain["clientConnection"]["qps"] = int(document.client_connection.qps)
    for holder, name in (
        (plain, "featureGates"),
        (plain, "windowsRunAsService"),
        (plain["logging"], "vmodule"),
        (plain["logging"]["options"]["text"], "splitStream"),
        (plain["logging"]["options"]["json"], "splitStream"),
    ):
        if not holder[name]:
            del holder[name]
    return plain


def to_yaml(plain: dict[str, Any]) -> str:
    """The document as a file that kube-proxy and this proxy read alike."""
    return str(yaml.dump(plain, Dumper=yaml.CSafeDumper, sort_keys=True, default_flow_style=False))


def set_field(document: KubeProxyConfiguration, path: str, value: Any) -> None:
    """Set the field that a path of the document's own names leads to ("conntrack.min")."""
    *sections, last = path.split(".")
    holder: Any = document
    for section in sections:
        holder = getattr(holder, _attribute(holder, section))
    setattr(holder, _attribute(holder, last), value)


def get_field(document: KubeProxyConfiguration, path: str) -> Any:
    """The value at a path."""
    value: Any = document
    for name in path.split("."):
        value = getattr(value, _attribute(value, name))
    return value


def _attribute(holder: Any, encoded: str) -> str:
    names = dict(zip(holder.__struct_encode_fields__, holder.__struct_fields__))
    return str(names[encoded])


def _decode(kind: Any, value: Any) -> Any:
    if kind is FlushFrequency and isinstance(value, int) and not isinstance(value, bool):
        return FlushFrequency(value / 1e9)
    if kind is Quantity and isinstance(value, (int, float)) and not isinstance(value, bool):
        return Quantity(parse_quantity(str(value)))
    if not isinstance(value, str):
        raise ValueError(f"expected a text, got {json_type(value)}")
    return kind(parse_quantity(value) if kind is Quantity else parse_duration(value))


def _encode(value: Any) -> Any:
    return str(value) if isinstance(value, Quantity) else format_duration(value)


def json_type(value: Any) -> str:
    """What JSON calls the type of a value."""
    names = {dict: "object", list: "array", str: "string", bool: "bool", type(None): "null"}
    return names.get(type(value), "number")
