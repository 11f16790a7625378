# SPDX-License-Identifier: Apache-2.0
"""Flags of every address that concerns the programs: VIPs of Services and addresses of the node.

The node's addresses stand here whether or not any node port exists: they change seldom, there are
few of them, and a Service that comes or goes then costs no write for each of them. Called by
``cluster``.
"""

from __future__ import annotations

from typing import Iterable, Iterator

from kubeproxy_bpf.model.addresses import WILDCARD, is_loopback
from kubeproxy_bpf.model.facts import NodeAddresses
from kubeproxy_bpf.model.types import FrontendSpec
from kubeproxy_bpf.plan.records import FrontendKind, VipFlags

_CLUSTER_IP = int(VipFlags.CLUSTER_IP)
_EXTERNAL = int(VipFlags.EXTERNAL)
_NODE_PORT = int(VipFlags.NODE_PORT)
_HOST_PORT = int(VipFlags.HOST_PORT)
_LOOPBACK = int(VipFlags.LOOPBACK)
_ON_DEVICE = int(VipFlags.ON_DEVICE)

_FLAG_OF_KIND = {
    FrontendKind.CLUSTER_IP: _CLUSTER_IP,
    FrontendKind.LOAD_BALANCER: _EXTERNAL,
    FrontendKind.EXTERNAL_IP: _EXTERNAL,
    FrontendKind.HOST_PORT: _HOST_PORT,
}


class VipTable:
    """Counts who uses an address, and names the addresses whose flags may have changed."""

    def __init__(self) -> None:
        self._users: dict[int, dict[bytes, int]] = {
            _CLUSTER_IP: {},
            _EXTERNAL: {},
            _HOST_PORT: {},
        }
        self._node = NodeAddresses()
        self._touched: set[bytes] = set()
        self._taken: dict[bytes, int] = {}

    def add(self, frontends: Iterable[FrontendSpec]) -> None:
        for flag, address in _uses(frontends):
            users = self._users[flag]
            count = users[address] = users.get(address, 0) + 1
            if count == 1:
                self._touched.add(address)

    def remove(self, frontends: Iterable[FrontendSpec]) -> None:
        for flag, address in _uses(frontends):
            users = self._users[flag]
            users[address] -= 1
            if not users[address]:
                del users[address]
                self._touched.add(address)

    def set_node(self, node: NodeAddresses) -> None:
        self._touched |= self._node.local ^ node.local
        self._touched |= self._node.node_port ^ node.node_port
        self._node = node

    @property
    def has_changes(self) -> bool:
        return bool(self._touched)

    def flags(self, address: bytes) -> int:
        if address in self._users[_CLUSTER_IP]:
            # An external IP or a host IP that is a cluster IP too does not open the other ports of
            # the cluster IP, which is another's. Where somebody answers himself on the node
            # (NodeLocal DNSCache), nothing on it is ours [H6].
            return _CLUSTER_IP | (_ON_DEVICE if address in self._node.local else 0)
        external = _EXTERNAL if address in self._users[_EXTERNAL] else 0
        return external | self._host_flags(address)

    def _host_flags(self, address: bytes) -> int:
        if address not in self._node.local:
            # A host IP that is not the node's: its one port is served, wildcard frontends are not.
            return _EXTERNAL if address in self._users[_HOST_PORT] else 0
        node_port = _NODE_PORT if address in self._node.node_port else 0
        return _HOST_PORT | node_port | (_LOOPBACK if is_loopback(address) else 0)

    def take(self, everything: bool) -> dict[bytes, int]:
        """Flags of the addresses that changed since the last time, or of all that have any."""
        if everything:
            self._taken.clear()
            self._touched.update(*self._users.values(), self._node.local)
        changed = {}
        for address in self._touched:
            flags = self.flags(address)
            if flags != self._taken.get(address, 0):
                changed[address] = flags
        self._touched = set()
        self._taken.update(changed)
        for address in [address for address, flags in changed.items() if not flags]:
            del self._taken[address]
        return changed


def _uses(frontends: Iterable[FrontendSpec]) -> Iterator[tuple[int, bytes]]:
    for spec in frontends:
        flag = _FLAG_OF_KIND.get(spec.kind)
        if flag is not None and spec.address not in _WILDCARDS:
            yield flag, spec.address


_WILDCARDS = frozenset(WILDCARD.values())
