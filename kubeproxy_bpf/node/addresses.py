# SPDX-License-Identifier: Apache-2.0
"""Which addresses of this node are its own, and which of them serve node ports [F12-F17].

Pure: the devices' addresses come in, sets for the model go out. The loopback addresses always
count; 127.0.0.1 stands for all of 127/8. Called by ``app`` whenever ``node.devices`` saw a change.
"""

from __future__ import annotations

from typing import Iterable, Sequence

from kubeproxy_bpf.model.addresses import (
    LOOPBACK,
    WILDCARD,
    format_address,
    is_link_local,
    is_loopback,
    parse_prefix,
)
from kubeproxy_bpf.model.facts import NodeAddresses
from kubeproxy_bpf.model.types import Family, Prefix, family_of

PRIMARY = "primary"

_NOT_OURS = ("kube-ipvs0",)
"""Devices that carry VIPs for kube-proxy's IPVS mode, not addresses of the node."""


class NodePortPolicy:
    """The choice made by nodePortAddresses and localhostNodePorts."""

    def __init__(
        self, cidrs: Sequence[str] = (), node_ips: Iterable[bytes] = (), localhost: bool = True
    ) -> None:
        """``node_ips`` take the place of ["primary"], those of loopback excepted [F14].

        Texts that are no CIDR are skipped: the configuration was judged before.
        """
        if list(cidrs) == [PRIMARY]:
            prefixes = [Prefix(ip, 128) for ip in node_ips if not is_loopback(ip)]
        else:
            prefixes = [prefix for text in cidrs if (prefix := parse_prefix(text)) is not None]
        self._localhost = localhost
        self._prefixes = {family: _restricting(prefixes, family) for family in Family}

    def serves(self, address: bytes) -> bool:
        """Whether an address of this node serves node ports.

        1. A loopback address only where localhost node ports are wanted [F15]. 2. No CIDR of the
        family, or one that holds everything: all [F13]. 3. Else those inside a CIDR.
        """
        if is_loopback(address) and not self._localhost:
            return False
        prefixes = self._prefixes[family_of(address)]
        return not prefixes or any(address in prefix for prefix in prefixes)

    def listens(self, addresses: Iterable[bytes]) -> dict[Family, frozenset[str] | None]:
        """Where health checks of Services listen, given the node's own addresses: None for all.

        Loopback counts like any other address, whatever localhost node ports do. A link-local
        address cannot be listened on without its device.
        """
        places = {*LOOPBACK.values(), *addresses}
        return {
            family: (
                frozenset(
                    format_address(place)
                    for place in places
                    if not is_link_local(place) and any(place in prefix for prefix in prefixes)
                )
                if prefixes
                else None
            )
            for family, prefixes in self._prefixes.items()
        }


def _restricting(prefixes: Iterable[Prefix], family: Family) -> tuple[Prefix, ...]:
    of_family = tuple(prefix for prefix in prefixes if prefix.family == family)
    return () if any(prefix.is_everything for prefix in of_family) else of_family


def node_addresses(
    devices: Iterable[tuple[str, bytes]],
    policy: NodePortPolicy,
    families: Iterable[Family] = tuple(Family),
) -> NodeAddresses:
    """The node's own addresses, given (device, address) of all devices."""
    local = {LOOPBACK[family] for family in families}
    local.update(
        address
        for device, address in devices
        if device not in _NOT_OURS and not is_loopback(address) and address not in WILDCARD.values()
    )
    return NodeAddresses(frozenset(local), frozenset(filter(policy.serves, local)))
