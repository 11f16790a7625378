# SPDX-License-Identifier: Apache-2.0
"""The cluster set and the local set, chosen among traits."""

from typing import Any

import pytest

from kubeproxy_bpf.api.objects import EndpointTraits
from kubeproxy_bpf.model.services import SetsInUse
from kubeproxy_bpf.model.topology import Sets, Window, choose_sets, is_local
from tests.fix_objects import NODE, draining, traits

BOTH = SetsInUse(cluster=True, local=True)
HERE, THERE = traits(NODE), traits("node-b")
DEAD = traits(ready=False, serving=False)


def hinted(node: str = "node-b", zones: str = "", nodes: str = "", **fields: Any) -> EndpointTraits:
    return traits(
        node, hint_zones=frozenset(zones.split()), hint_nodes=frozenset(nodes.split()), **fields
    )


def choose(*found: EndpointTraits, in_use: SetsInUse = BOTH, zone: str = "east") -> Sets:
    return choose_sets(found, in_use, NODE, zone)


@pytest.mark.parametrize(
    "node, own_name, expected",
    [(NODE, NODE, True), ("Node-a", NODE, False), (None, NODE, False), ("", "", False)],
)
def test_local_is_this_nodes_exact_name(node: str | None, own_name: str, expected: bool) -> None:
    """[B4] No node name is remote, and without our own name nothing is local."""
    assert is_local(traits(node), own_name) is expected


def test_ready_endpoints_win_over_draining_ones() -> None:
    """[C3] Draining endpoints get new flows only when no endpoint is ready."""
    assert choose(THERE, draining()).cluster == {THERE}
    assert choose(draining(), DEAD).cluster == {draining()}


def test_local_set_falls_back_on_its_own() -> None:
    """[C4, C5] Ready ones elsewhere do not keep the local draining ones from serving."""
    sets = choose(THERE, draining(NODE))
    assert sets.cluster == {THERE} and sets.local == {draining(NODE)}


def test_local_set_without_local_endpoints_is_empty() -> None:
    """[C7, C11] But the record knows that others have endpoints: drop, not refuse."""
    sets = choose(THERE, in_use=SetsInUse(cluster=False, local=True))
    assert not sets.local and not sets.cluster and sets.has_endpoints


def test_neither_ready_nor_draining_is_never_used() -> None:
    """[C6, C7] Serving alone, without terminating, is not enough for new flows."""
    sets = choose(DEAD, traits(ready=False))
    assert not sets.cluster and not sets.local and not sets.has_endpoints


def test_ready_while_terminating_counts_as_ready() -> None:
    """[B7, C9] As with publishNotReadyAddresses."""
    published = traits(ready=True, serving=False, terminating=True)
    assert choose(published, draining()).cluster == {published}


def test_node_hints_go_first() -> None:
    """[D2] All hinted to nodes and one to this node: only that."""
    mine = hinted(nodes=f"{NODE} node-c", zones="west")
    other = hinted(nodes="node-b", zones="east")
    assert choose(mine, other).cluster == {mine}


def test_zone_hints_come_second() -> None:
    """[D3] No node hint names us, but a zone hint names our zone."""
    near, far = hinted(nodes="node-b", zones="east"), hinted(nodes="node-c", zones="west")
    assert choose(near, far).cluster == {near}


@pytest.mark.parametrize(
    "found, zone",
    [
        ((hinted(zones="east"), hinted()), "east"),
        ((hinted(zones="west"), hinted(zones="north")), "east"),
        ((hinted(zones="east"), hinted(zones="west")), ""),
        ((hinted(nodes=NODE), hinted()), ""),
    ],
)
def test_incomplete_hints_mean_all(found: tuple[EndpointTraits, ...], zone: str) -> None:
    """[D4] A hint is missing, none is for us, or the node has no zone: all ready endpoints."""
    assert choose(*found, zone=zone).cluster == set(found)


def test_empty_names_match_no_hint() -> None:
    """[D2, D3] A hint without a name names neither a nameless node nor a node without a zone."""
    nameless, other = traits(hint_nodes=frozenset({""})), hinted(nodes="y")
    assert choose_sets([nameless, other], BOTH, "", "").cluster == {nameless, other}
    nowhere, west = traits(hint_zones=frozenset({""})), hinted(zones="west")
    assert choose(nowhere, west, zone="").cluster == {nowhere, west}


def test_node_hints_alone_are_enough() -> None:
    """[D2] Zone hints need not be there."""
    assert choose(hinted(nodes=NODE), hinted(nodes="node-b")).cluster == {hinted(nodes=NODE)}


def test_hints_of_endpoints_that_are_not_ready_do_not_count() -> None:
    """[D1, D5] Only ready endpoints are examined, and the fallback knows no topology."""
    near, leaving = hinted(zones="east"), hinted(zones="", ready=False, terminating=True)
    assert choose(near, leaving).cluster == {near}
    far = hinted(zones="west", ready=False, terminating=True)
    assert choose(far, leaving).cluster == {far, leaving}


def test_hints_do_not_concern_the_local_set() -> None:
    """[C4, D8] A local endpoint that is hinted away stays in the local set."""
    here, there = hinted(NODE, zones="west"), hinted("node-b", zones="east")
    sets = choose(here, there)
    assert sets.window(here) == Window.LOCAL_ONLY
    assert sets.window(there) == Window.CLUSTER_ONLY


def test_windows_cover_every_case() -> None:
    """Both sets, no set while it serves or is ready, and not used at all."""
    sets = choose(HERE, THERE, draining(), DEAD)
    assert sets.window(HERE) == Window.BOTH
    assert sets.window(draining()) == Window.NO_SET
    assert sets.window(DEAD) is None
    nothing = Sets(frozenset(), frozenset(), False)
    assert nothing.window(traits(serving=False)) == Window.NO_SET
