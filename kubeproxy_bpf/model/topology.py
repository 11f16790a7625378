# SPDX-License-Identifier: Apache-2.0
"""Which endpoints get new flows: the cluster set and the local set [B4, C3-C7, C9, D1-D5, D8].

Membership follows from an endpoint's traits alone, and a Service has few distinct traits for many
endpoints, so the sets are chosen among traits, whatever the number of endpoints. Called by
``desired``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Collection, NamedTuple

from kubeproxy_bpf.api.objects import EndpointTraits
from kubeproxy_bpf.model.services import SetsInUse


class Window(IntEnum):
    """Where an endpoint stands in the extent; numbered in its order (see ``struct record``)."""

    CLUSTER_ONLY = 0
    BOTH = 1
    LOCAL_ONLY = 2
    NO_SET = 3
    """Serves the flows that it has, gets no new ones."""


class Sets(NamedTuple):
    """The traits of the endpoints that get new flows."""

    cluster: frozenset[EndpointTraits]
    local: frozenset[EndpointTraits]
    has_endpoints: bool
    """Some node could serve: where the sets that apply are empty, flows drop [C7, C11, C12]."""

    def window(self, traits: EndpointTraits) -> Window | None:
        """The place of such endpoints in the extent; None when they are not used at all [C6].

        An endpoint in no set is kept while it serves: its flows go on, draining included [J2].
        """
        in_cluster, in_local = traits in self.cluster, traits in self.local
        if in_cluster:
            return Window.BOTH if in_local else Window.CLUSTER_ONLY
        if in_local:
            return Window.LOCAL_ONLY
        return Window.NO_SET if traits.serving or traits.ready else None


def is_local(traits: EndpointTraits, node_name: str) -> bool:
    """An endpoint without a node name is remote, and without our own name nothing is local [B4]."""
    return traits.node == node_name != ""


def choose_sets(
    distinct: Collection[EndpointTraits], in_use: SetsInUse, node_name: str, zone: str
) -> Sets:
    """Choose both sets among the distinct traits of a service port's endpoints.

    A ready endpoint counts even while it terminates [C9]. Draining ones (serving, terminating) are
    the fallback of each set on its own, the cluster set's without topology [C3-C5, D5].
    """
    ready = [traits for traits in distinct if traits.ready]
    draining = [traits for traits in distinct if traits.serving and traits.terminating]
    cluster: list[EndpointTraits] = []
    local: list[EndpointTraits] = []
    if in_use.cluster:
        cluster = _near(ready, node_name, zone) if ready else draining
    if in_use.local:
        # Hints do not concern the local set [C4, D8].
        local = [t for t in ready if is_local(t, node_name)]
        local = local or [t for t in draining if is_local(t, node_name)]
    return Sets(frozenset(cluster), frozenset(local), bool(ready or draining))


def _near(ready: list[EndpointTraits], node_name: str, zone: str) -> list[EndpointTraits]:
    """Follow the hints where they are complete and name us [D1-D4].

    1. All have a node hint and one names this node: those. 2. All have a zone hint and one names
    this zone: those. 3. Else all: a missing hint means that hints are being rolled out.
    """
    if node_name and all(traits.hint_nodes for traits in ready):
        same_node = [traits for traits in ready if node_name in traits.hint_nodes]
        if same_node:
            return same_node
    if zone and all(traits.hint_zones for traits in ready):
        same_zone = [traits for traits in ready if zone in traits.hint_zones]
        if same_zone:
            return same_zone
    return ready
