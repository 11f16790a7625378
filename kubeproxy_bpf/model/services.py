# SPDX-License-Identifier: Apache-2.0
"""A Service, judged: is it served, under which addresses of each family, with which policies.

[A1-A4, A8-A10, C1, C2, C8, F1-F5, F8, F9, F11, G4, I1, I5-I7]. Whatever is impossible in a Service
is reported and left out, and all the rest of it is served. Endpoints are not looked at. Called by
``desired``, ``health`` and ``frontends``.
"""

from __future__ import annotations

from typing import Iterable, NamedTuple

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.api.objects import Service
from kubeproxy_bpf.model.addresses import parse_prefix, unfit_vip
from kubeproxy_bpf.model.facts import ModelConfig
from kubeproxy_bpf.model.problems import Report
from kubeproxy_bpf.model.types import Family, Prefix, Protocol, family_of

PROTOCOLS = {"TCP": int(Protocol.TCP), "UDP": int(Protocol.UDP), "SCTP": int(Protocol.SCTP)}
"""[I1]"""

DEFAULT_AFFINITY_TIMEOUT_S = 10800
MAX_AFFINITY_TIMEOUT_S = 86400
"""[G4]"""

ALGORITHM = "kubeproxy-bpf.io/algorithm"
"""Annotation of a Service: how its backends are chosen, whatever the instance's default."""

_CONSISTENT = {"random": False, "maglev": True, "rendezvous": True, "consistent": True}
"""Whether the client decides the backend. There is one way to do so, and it is that of rendezvous
hashing; the other names are those under which people look for it."""

_WIRE_FAMILY = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}


class Port(NamedTuple):
    """A port of a Service that can be served."""

    name: str
    protocol: int
    port: int
    node_port: int


class FamilyView(NamedTuple):
    """What a Service is in one family; each family stands alone [I5]."""

    family: Family
    cluster_ip: bytes
    external_ips: tuple[bytes, ...]
    """Those to serve; none when the gate is off [F4]."""
    load_balancer_ips: tuple[bytes, ...]
    source_ranges: tuple[Prefix, ...]
    """Who may use the load-balancer addresses; empty: everybody [F5, F8, F9]."""
    has_external_address: bool
    """Load-balancer or external addresses exist; the gate does not matter here [C1]."""


class SetsInUse(NamedTuple):
    """Which endpoint sets the policies of a service port ask for."""

    cluster: bool
    local: bool


def is_served(service: Service) -> bool:
    """Whether the proxy has to do with this Service at all [A1-A4].

    The API server already leaves most others out by selector; a label added later arrives as a
    deletion.
    """
    return (
        service.cluster_ip not in ("", "None")
        and service.type != "ExternalName"
        and service.proxy_name is None
    )


def internal_local(service: Service) -> bool:
    return service.internal_policy == "Local"


def external_local(service: Service) -> bool:
    """externalTrafficPolicy: Local, where it counts [C8]."""
    return service.external_policy == "Local" and (
        service.type in ("NodePort", "LoadBalancer") or bool(service.external_ips)
    )


def sets_in_use(service: Service, view: FamilyView, port: Port) -> SetsInUse:
    """[C1, C2]"""
    accessible = port.node_port != 0 or view.has_external_address
    inside = internal_local(service)
    return SetsInUse(
        cluster=not inside or accessible,
        local=inside or (external_local(service) and accessible),
    )


def affinity_timeout_s(service: Service) -> int:
    """0 when there is no affinity [G1, G2, G4]."""
    if service.affinity != "ClientIP":
        return 0
    timeout_s = service.affinity_timeout_s
    if timeout_s < 1:
        return DEFAULT_AFFINITY_TIMEOUT_S
    # The record holds 32 bits; an API server refuses more than a day.
    return min(timeout_s, MAX_AFFINITY_TIMEOUT_S)


def check_affinity(service: Service, report: Report) -> None:
    """Say that another time-out is used than the one asked for."""
    used_s = affinity_timeout_s(service)
    if used_s not in (0, service.affinity_timeout_s):
        field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        report.add(field, f"{service.affinity_timeout_s} is out of range; {used_s} used")


def is_consistent(service: Service, config: ModelConfig, report: Report) -> bool:
    """Whether the client decides the backend, the same on every node, or chance."""
    default = config.consistent_default
    if not service.annotations or (text := dict(service.annotations).get(ALGORITHM)) is None:
        return default
    if text not in _CONSISTENT:
        used = "maglev" if default else "random"
        report.add(
            f"metadata.annotations[{ALGORITHM}]",
            f"{text!r} is none of {', '.join(_CONSISTENT)}; {used} used",
        )
    return _CONSISTENT.get(text, default)


def note_sctp(ports: Iterable[Port], report: Report) -> None:
    """Say once what an SCTP port does not get."""
    if any(port.protocol == Protocol.SCTP for port in ports):
        report.note(
            "spec.ports",
            "SCTP is translated by packet only, and only by address: target port and port must be "
            "the same",
        )


def ports_of(service: Service, report: Report) -> list[Port]:
    """The ports that can be served; name and protocol tell them apart [A10]."""
    ports: dict[tuple[str, int], Port] = {}
    for index, port in enumerate(service.ports):
        field = f"spec.ports[{index}]"
        protocol = PROTOCOLS.get(port.protocol)
        if protocol is None:
            report.add(f"{field}.protocol", f"{port.protocol!r} is no protocol; port not served")
        elif not 0 < port.port <= 65535:
            report.add(f"{field}.port", f"{port.port} is out of range; port not served")
        elif (port.name, protocol) in ports:
            report.add(f"{field}.name", f"{port.name!r} is there twice; port not served")
        else:
            node_port = _node_port(port.node_port, field, report)
            ports[port.name, protocol] = Port(port.name, protocol, port.port, node_port)
    return list(ports.values())


def _node_port(number: int, field: str, report: Report) -> int:
    if 0 <= number <= 65535:
        return number
    report.add(f"{field}.nodePort", f"{number} is out of range; node port not served")
    return 0


def family_views(service: Service, config: ModelConfig, report: Report) -> list[FamilyView]:
    """The families in which the Service has a cluster IP; without one nothing is served [A8]."""
    external = _vips(enumerate(service.external_ips), "spec.externalIPs[{}]", report)
    load_balancer = _vips(_ingress_ips(service), "status.loadBalancer.ingress[{}].ip", report)
    ranges = _source_ranges(service, report)
    views = []
    for family in config.families:
        cluster_ip = _cluster_ip(service, family, report)
        if cluster_ip is None:
            continue
        external_ips = tuple(ip for ip in external if family_of(ip) == family)
        lb_ips = tuple(ip for ip in load_balancer if family_of(ip) == family)
        views.append(
            FamilyView(
                family=family,
                cluster_ip=cluster_ip,
                external_ips=external_ips if config.allow_external_ips else (),
                load_balancer_ips=lb_ips,
                source_ranges=_ranges_of_family(ranges, family),
                has_external_address=bool(lb_ips or external_ips),
            )
        )
    return views


def _cluster_ip(service: Service, family: Family, report: Report) -> bytes | None:
    """The cluster IP of the family; spec.clusterIP alone counts without ipFamilies only [A9]."""
    index, text = _cluster_ip_text(service, family)
    if text in ("", "None"):
        return None
    field = "spec.clusterIP" if index is None else f"spec.clusterIPs[{index}]"
    address = parse_address(text)
    unfit = "no IP" if address is None else unfit_vip(address)
    if unfit is None and address is not None:
        if family_of(address) == family:
            return address
        if index is None:
            return None
        unfit = f"no {_WIRE_FAMILY[family]}"
    report.add(field, f"{text!r} is {_article(unfit)} address; family not served")
    return None


def _cluster_ip_text(service: Service, family: Family) -> tuple[int | None, str]:
    if not service.ip_families:
        return None, service.cluster_ip
    wire = _WIRE_FAMILY[family]
    if wire not in service.ip_families:
        return None, ""
    index = service.ip_families.index(wire)
    return index, service.cluster_ips[index] if index < len(service.cluster_ips) else ""


def _ingress_ips(service: Service) -> Iterable[tuple[int, str]]:
    """Mode "Proxy" asks that packets go out to the real load balancer [F1-F3]."""
    for index, ingress in enumerate(service.ingress):
        if ingress.ip_mode != "Proxy":
            yield index, ingress.ip


def _vips(texts: Iterable[tuple[int, str]], field: str, report: Report) -> tuple[bytes, ...]:
    """The usable addresses, each once; empty texts are silently nothing [F3, F4]."""
    addresses: dict[bytes, None] = {}
    for index, text in texts:
        if not text:
            continue
        address = parse_address(text)
        unfit = "no IP" if address is None else unfit_vip(address)
        if address is not None and unfit is None:
            addresses[address] = None
        else:
            report.add(field.format(index), f"{text!r} is {_article(unfit)} address; not served")
    return tuple(addresses)


def _article(unfit: str | None) -> str:
    text = unfit or ""
    if text.startswith("no "):
        return text
    return f"an {text}" if text[:1] in "aeiou" else f"a {text}"


def _source_ranges(service: Service, report: Report) -> tuple[Prefix, ...]:
    ranges = []
    for index, text in enumerate(service.source_ranges):
        prefix = parse_prefix(text)
        if prefix is not None:
            ranges.append(prefix)
        elif text.strip():
            field = f"spec.loadBalancerSourceRanges[{index}]"
            report.add(field, f"{text!r} is no CIDR; not counted")
    return tuple(ranges)


def _ranges_of_family(ranges: tuple[Prefix, ...], family: Family) -> tuple[Prefix, ...]:
    """The ranges that restrict this family: a /0 lets everybody in, and so does none [F8, F9]."""
    of_family = tuple(prefix for prefix in ranges if prefix.family == family)
    return () if any(prefix.is_everything for prefix in of_family) else of_family
