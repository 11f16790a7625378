# SPDX-License-Identifier: Apache-2.0
"""Whether the way to the API server leads through Services of a snapshot, or must not.

Cluster IPs exist through us alone: an API server that has one is asked through its Service. An
external IP or a load balancer's address may lead to it without us, as the virtual address of a
control plane does: Services that are recalled do not take it, since endpoints that are dead by now
would cut us off from the only one who knows better. Pure; called by ``last_known``.
"""

from __future__ import annotations

from typing import Collection, Iterable

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.api.decode import ApiObject
from kubeproxy_bpf.api.objects import Service


def leads_through(services: Iterable[ApiObject], address: bytes | None) -> bool:
    """Whether this is the cluster IP of one of them."""
    return address is not None and any(
        address == parse_address(text)
        for service in services
        if isinstance(service, Service)
        for text in service.cluster_ips
    )


def without_addresses(each: ApiObject, addresses: Collection[bytes]) -> ApiObject:
    """A Service that leaves these to whoever has them beside it; all other objects as they are."""
    if not isinstance(each, Service):
        return each
    external_ips = tuple(ip for ip in each.external_ips if parse_address(ip) not in addresses)
    ingress = tuple(entry for entry in each.ingress if parse_address(entry.ip) not in addresses)
    return each._replace(external_ips=external_ips, ingress=ingress)
