# SPDX-License-Identifier: Apache-2.0
"""Host ports of the Pods of this node, as service ports with one endpoint [L1-L4].

A Pod serves from the time it has an address until it is gone or its phase ends it, also while it is
being deleted, as the CNI's own port mapping does. Two Pods with one host port are settled in
``claims``. Called by ``cluster``.
"""

from __future__ import annotations

from typing import Iterable

from kubeproxy_bpf.api.addresses import parse_address, special_range
from kubeproxy_bpf.api.objects import HostPort, Pod
from kubeproxy_bpf.model.addresses import (
    LOOPBACK,
    WILDCARD,
    format_address,
    is_loopback,
)
from kubeproxy_bpf.model.facts import ModelConfig, NodeFacts
from kubeproxy_bpf.model.frontends import host_port_frontend
from kubeproxy_bpf.model.problems import Report
from kubeproxy_bpf.model.services import PROTOCOLS
from kubeproxy_bpf.model.types import (
    BackendSpec,
    Desired,
    Family,
    Problem,
    ServicePortId,
    family_of,
)
from kubeproxy_bpf.plan.records import BackendFlags, RecordFlags

_LOCAL = int(BackendFlags.LOCAL)
_HOST = int(BackendFlags.HOST)
_HAS_ENDPOINTS = int(RecordFlags.HAS_ENDPOINTS)


def is_served(pod: Pod, node_name: str) -> bool:
    """Whether the Pod's host ports are ours; one in the host's network listens there itself."""
    return (
        bool(pod.host_ports)
        and not pod.host_network
        and pod.node == node_name
        and pod.phase not in ("Succeeded", "Failed")
    )


def compile_pod(
    pod: Pod, facts: NodeFacts, config: ModelConfig
) -> tuple[dict[ServicePortId, Desired], tuple[Problem, ...]]:
    """What should be programmed for the host ports of a Pod, and what is wrong with them."""
    ports: dict[ServicePortId, Desired] = {}
    if not is_served(pod, config.node_name):
        return ports, ()
    report = Report("Pod", pod.namespace, pod.name)
    pod_ips = _pod_ips(pod, report)
    for index, host_port in enumerate(pod.host_ports):
        protocol = _protocol(host_port, f"hostPorts[{index}]", report)
        if protocol is None:
            continue
        for address in _host_addresses(host_port, f"hostPorts[{index}].hostIP", config, report):
            pod_ip = pod_ips.get(family_of(address))
            if pod_ip is not None:
                port_id = _port_id(pod, address, host_port.host_port, protocol)
                flags = _LOCAL | (_HOST if pod_ip in facts.local else 0)
                backend = BackendSpec(pod_ip, host_port.container_port, protocol, flags)
                frontend = host_port_frontend(address, host_port.host_port, protocol)
                ports.setdefault(
                    port_id, Desired((frontend,), (backend,), 1, 0, 0, 0, _HAS_ENDPOINTS)
                )
    return ports, report.problems


def _pod_ips(pod: Pod, report: Report) -> dict[Family, bytes]:
    """The Pod's first address of each family."""
    found: dict[Family, bytes] = {}
    for index, text in enumerate(pod.pod_ips):
        address = parse_address(text)
        special = "no IP address" if address is None else special_range(address)
        if special or address is None:
            report.add(f"status.podIPs[{index}].ip", f"{text!r} is {special}; not used")
        else:
            found.setdefault(family_of(address), address)
    return found


def _protocol(host_port: HostPort, field: str, report: Report) -> int | None:
    protocol = PROTOCOLS.get(host_port.protocol)
    if protocol is None:
        report.add(f"{field}.protocol", f"{host_port.protocol!r} is no protocol; not served")
        return None
    for name, number in (
        ("hostPort", host_port.host_port),
        ("containerPort", host_port.container_port),
    ):
        if not 0 < number <= 65535:
            report.add(f"{field}.{name}", f"{number} is out of range; not served")
            return None
    return protocol


def _host_addresses(
    host_port: HostPort, field: str, config: ModelConfig, report: Report
) -> Iterable[bytes]:
    """Where the host port is reached: without a host IP on all addresses of all families [L2].

    "0.0.0.0" and "::" ask for all addresses of their own family.
    """
    if not host_port.host_ip:
        return [WILDCARD[family] for family in config.families]
    address = parse_address(host_port.host_ip)
    # The programs take all of 127/8 for 127.0.0.1, so the others cannot be told apart from it.
    if address is None or _is_nobodys(address) or _is_other_loopback(address):
        report.add(field, f"{host_port.host_ip!r} is no host address that can be served")
        return []
    return [address] if family_of(address) in config.families else []


def _is_nobodys(address: bytes) -> bool:
    return special_range(address) in ("multicast", "broadcast")


def _is_other_loopback(address: bytes) -> bool:
    return is_loopback(address) and address not in LOOPBACK.values()


def _port_id(pod: Pod, address: bytes, port: int, protocol: int) -> ServicePortId:
    family = family_of(address)
    host = "*" if address == WILDCARD[family] else format_address(address)
    return ServicePortId("pod", pod.namespace, pod.name, f"{host}:{port}", protocol, int(family))
