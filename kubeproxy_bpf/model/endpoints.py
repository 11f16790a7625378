# SPDX-License-Identifier: Apache-2.0
"""EndpointSlices of a Service, put together: the endpoints of one service port.

[A5-A7, A10-A12, B5, B6]; the defaults of the conditions [B1-B3] are the decoder's. Which of the
endpoints get traffic is not decided here but in ``topology``. Called by ``desired``, ``health`` and
``slices``.
"""

from __future__ import annotations

from itertools import repeat
from typing import Mapping, Sequence

from kubeproxy_bpf.api.objects import EndpointSlice, EndpointTraits
from kubeproxy_bpf.model.problems import Report
from kubeproxy_bpf.model.services import PROTOCOLS
from kubeproxy_bpf.model.types import Family, Problem

Endpoints = dict[tuple[bytes, int], EndpointTraits]
"""Traits of each endpoint by its address and port."""

PortIndex = Mapping[tuple[str, str, int], Sequence[tuple[EndpointSlice, int]]]
"""Slices and their port numbers by address type, port name and protocol."""

_ADDRESS_TYPE = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}


def counts(endpoint_slice: EndpointSlice) -> bool:
    """Whether the slice belongs to a Service that the proxy serves [A5-A7]."""
    return (
        bool(endpoint_slice.service)
        and not endpoint_slice.headless
        and endpoint_slice.address_type in _ADDRESS_TYPE.values()
    )


def problems_of(endpoint_slice: EndpointSlice) -> tuple[Problem, ...]:
    """What is wrong with a slice; headless ones are none of our business [A5]."""
    report = Report("EndpointSlice", endpoint_slice.namespace, endpoint_slice.name)
    if endpoint_slice.headless:
        return ()
    if endpoint_slice.address_type not in (*_ADDRESS_TYPE.values(), "FQDN"):
        text = f"{endpoint_slice.address_type!r} is no address type; slice not used"
        report.add("addressType", text)
    if not endpoint_slice.service:
        report.add("metadata.labels[kubernetes.io/service-name]", "is missing; slice not used")
    for index, port in enumerate(endpoint_slice.ports):
        if port.protocol not in PROTOCOLS:
            report.add(f"ports[{index}].protocol", f"{port.protocol!r} is no protocol; not used")
        if not 0 < port.port <= 65535:
            report.add(f"ports[{index}].port", f"{port.port} is out of range; not used")
    return report.problems


def index_ports(slices: Sequence[EndpointSlice]) -> PortIndex:
    """What ``endpoints_of`` looks into: a Service may have ten thousand ports.

    ``slices`` come in a fixed order (by name), so duplicates resolve the same way each time.
    """
    index: dict[tuple[str, str, int], list[tuple[EndpointSlice, int]]] = {}
    for endpoint_slice in slices:
        for port in endpoint_slice.ports:
            protocol = PROTOCOLS.get(port.protocol)
            if protocol is not None and 0 < port.port <= 65535:
                key = endpoint_slice.address_type, port.name, protocol
                index.setdefault(key, []).append((endpoint_slice, port.port))
    return index


def endpoints_of(index: PortIndex, family: Family, port_name: str, protocol: int) -> Endpoints:
    """The endpoints of a service port: slice ports join by name and protocol [A7, A10]."""
    endpoints: Endpoints = {}
    for endpoint_slice, port in index.get((_ADDRESS_TYPE[family], port_name, protocol), ()):
        _join(endpoints, endpoint_slice, port)
    return endpoints


def count_endpoints(index: PortIndex, family: Family, port_name: str, protocol: int) -> int:
    """How many ``endpoints_of`` gives at most."""
    found = index.get((_ADDRESS_TYPE[family], port_name, protocol), ())
    return sum(len(endpoint_slice.addresses) for endpoint_slice, _ in found)


def _join(endpoints: Endpoints, endpoint_slice: EndpointSlice, port: int) -> None:
    """Add a slice's endpoints; of two with one address the last that is not terminating stays.

    A terminating one never replaces an earlier one [B6]: a pod that moves between slices while it
    is replaced must not look terminating because of the older slice.
    """
    keys = zip(endpoint_slice.addresses, repeat(port))
    if not endpoints:
        endpoints.update(zip(keys, endpoint_slice.traits))
        if len(endpoints) == len(endpoint_slice.addresses):
            return  # no address twice: nothing to decide, the case of nearly every slice
        endpoints.clear()
        keys = zip(endpoint_slice.addresses, repeat(port))
    for key, traits in zip(keys, endpoint_slice.traits):
        if key not in endpoints or not traits.terminating:
            endpoints[key] = traits
