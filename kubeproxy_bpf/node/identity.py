# SPDX-License-Identifier: Apache-2.0
"""Who this node is to the packet programs: its primary addresses, its pods, the Services' CIDRs.

Pure: API objects, configuration and addresses come in, ``NodeFacts`` go out. Called by ``feed``
whenever one of them changed; written by ``dataplane.node``.
"""

from __future__ import annotations

from typing import Callable, Iterable, Sequence

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.api.objects import Node
from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.dataplane.node import NodeFacts
from kubeproxy_bpf.model.addresses import parse_prefix, unfit_vip
from kubeproxy_bpf.model.types import Family, Prefix, family_of
from kubeproxy_bpf.node.devices import LocalAddress

_UNSPECIFIED = ("0.0.0.0", "::")


def node_ips(node: Node | None, bind_address: str) -> tuple[bytes, ...]:
    """The node's own IPs, one per family: InternalIPs first, then ExternalIPs [K3].

    A specific ``bind_address`` takes the place of the one of its family.
    """
    found: dict[Family, bytes] = {}
    for address in _named_addresses(node, bind_address):
        found.setdefault(family_of(address), address)
    return tuple(found.values())


def is_uplink(device: str) -> bool:
    """What is known of a device by its name alone."""
    return device != "lo"


def node_facts(
    config: Config,
    node: Node | None,
    local: Iterable[LocalAddress],
    service_cidrs: Iterable[str],
    uplink: Callable[[str], bool] = is_uplink,
) -> NodeFacts:
    """All that the programs have to know, from what is known now."""
    named = _named_addresses(node, config.bind_address)
    primary = _primary_addresses(named, local, uplink)
    pods = _pod_prefixes(config, node)
    return NodeFacts(
        primary.get(Family.IPV4),
        primary.get(Family.IPV6),
        pods.get(Family.IPV4),
        pods.get(Family.IPV6),
        _service_prefixes(service_cidrs),
    )


def _named_addresses(node: Node | None, bind_address: str) -> list[bytes]:
    """What configuration and Node object call the node's IPs, in the order of preference [K3]."""
    texts = [] if bind_address in _UNSPECIFIED else [bind_address]
    if node is not None:
        for wanted in ("InternalIP", "ExternalIP"):
            texts += [text for kind, text in node.addresses if kind == wanted]
    return [address for text in texts if (address := parse_address(text)) is not None]


def _primary_addresses(
    named: Sequence[bytes], local: Iterable[LocalAddress], uplink: Callable[[str], bool]
) -> dict[Family, bytes]:
    """The address of each family that others reach the node at.

    Only what a device really carries: an answer to any other would never come back. Where none of
    the named ones is local (a cloud's NAT), or no Node is known, the first global address of an
    uplink stands in.
    """
    local = sorted(local, key=lambda entry: (entry.device, entry.address))
    present = {entry.address for entry in local}
    found: dict[Family, bytes] = {}
    for address in named:
        if address in present:
            found.setdefault(family_of(address), address)
    for entry in local:
        if unfit_vip(entry.address) is None and uplink(entry.device):
            found.setdefault(family_of(entry.address), entry.address)
    return found


def _pod_prefixes(config: Config, node: Node | None) -> dict[Family, Prefix]:
    """The local detector's CIDR of each family; the modes by device know pods otherwise [E10]."""
    if config.detect_local_mode == "ClusterCIDR":
        texts: Sequence[str] = config.cluster_cidr.split(",")
    elif config.detect_local_mode == "NodeCIDR" and node is not None:
        texts = node.pod_cidrs
    else:
        texts = ()
    found: dict[Family, Prefix] = {}
    for prefix in filter(None, map(parse_prefix, texts)):
        found.setdefault(prefix.family, prefix)
    return found


def _service_prefixes(texts: Iterable[str]) -> tuple[Prefix, ...]:
    """The CIDRs of all Services, each address once; the widest first, as room is scarce."""
    found: list[Prefix] = []
    for prefix in sorted(set(filter(None, map(parse_prefix, texts))), key=_by_width):
        if not any(prefix.address in wider for wider in found):
            found.append(prefix)
    return tuple(found)


def _by_width(prefix: Prefix) -> tuple[int, bytes]:
    return prefix.bits, prefix.address
