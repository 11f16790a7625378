# SPDX-License-Identifier: Apache-2.0
"""Who owns a frontend that several service ports claim.

Two Services may name the same external IP and port, or a Pod's host port the number of a node port.
One owner is chosen by rank of kind, then age, then name, so that every node and every order of
events gives the same answer, and the next one takes over when the owner goes. What nobody else
claims, nearly everything, costs one dictionary entry. Called by ``cluster``.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple

from kubeproxy_bpf.model.addresses import WILDCARD, format_address
from kubeproxy_bpf.model.types import FrontendSpec, Problem, Protocol, ServicePortId
from kubeproxy_bpf.plan.records import FrontendKind

Key = tuple[bytes, int, int]
"""Address, port and protocol of a frontend."""

# Names chosen by the control plane stand above those that anybody may write into a Service, so
# that an external IP cannot take over another Service's traffic.
_RANK = {
    FrontendKind.CLUSTER_IP: 0,
    FrontendKind.LOAD_BALANCER: 1,
    FrontendKind.EXTERNAL_IP: 2,
    FrontendKind.NODE_PORT: 3,
    FrontendKind.HOST_PORT: 4,
}

_FIELD = {
    FrontendKind.CLUSTER_IP: "spec.clusterIPs",
    FrontendKind.LOAD_BALANCER: "status.loadBalancer.ingress",
    FrontendKind.EXTERNAL_IP: "spec.externalIPs",
    FrontendKind.NODE_PORT: "spec.ports.nodePort",
    FrontendKind.HOST_PORT: "spec.containers.ports.hostPort",
}


class Claim(NamedTuple):
    """A service port that wants a frontend; the least claim owns it."""

    rank: int
    created: str
    """creationTimestamp: RFC 3339 in UTC, which sorts as text."""
    claimant: ServicePortId
    kind: FrontendKind


def claim_of(spec: FrontendSpec, created: str, claimant: ServicePortId) -> tuple[Key, Claim]:
    return spec[:3], Claim(_RANK[spec.kind], created, claimant, spec.kind)


class Claims:
    """All claims, and the owner of each frontend."""

    def __init__(self) -> None:
        self._owners: dict[Key, Claim] = {}
        self._waiting: dict[Key, list[Claim]] = {}

    def owns(self, key: Key, claimant: ServicePortId) -> bool:
        return self._owners[key].claimant == claimant

    def add(self, key: Key, claim: Claim) -> ServicePortId | None:
        """Record a claim; return whom it dispossesses."""
        owner = self._owners.setdefault(key, claim)
        if owner is claim:
            return None
        self._waiting.setdefault(key, []).append(max(owner, claim))
        if owner < claim:
            return None
        self._owners[key] = claim
        return owner.claimant

    def remove(self, key: Key, claim: Claim) -> ServicePortId | None:
        """Take a claim back; return who owns the frontend from now on, if that changed."""
        waiting = self._waiting.get(key, [])
        if self._owners[key] != claim:
            waiting.remove(claim)
            successor = None
        elif waiting:
            self._owners[key] = min(waiting)
            waiting.remove(self._owners[key])
            successor = self._owners[key].claimant
        else:
            del self._owners[key]
            return None
        if not waiting:
            del self._waiting[key]
        return successor

    def problems(self) -> Iterator[Problem]:
        """One for each claim that waits for its turn."""
        for key, waiting in self._waiting.items():
            for claim in waiting:
                yield self._problem(key, claim)

    def problem_of(self, key: Key, claimant: ServicePortId) -> Problem:
        """The problem of a claimant that waits."""
        claim = next(claim for claim in self._waiting[key] if claim.claimant == claimant)
        return self._problem(key, claim)

    def _problem(self, key: Key, claim: Claim) -> Problem:
        address, port, protocol = key
        where = "*" if address in WILDCARD.values() else format_address(address)
        owner = self._owners[key].claimant
        return Problem(
            claim.claimant.source.capitalize(),
            claim.claimant.namespace,
            claim.claimant.name,
            _FIELD[claim.kind],
            f"{where} port {port}/{Protocol(protocol).name} is taken by {owner.source} "
            f"{owner.namespace}/{owner.name}; not served",
        )
