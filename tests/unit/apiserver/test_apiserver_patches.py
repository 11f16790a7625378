# SPDX-License-Identifier: Apache-2.0
"""JSON patch, merge patch and strategic merge patch."""

from __future__ import annotations

from typing import Any

import pytest

from kubeproxy_bpf.sandbox.apiserver.jsonpatch import json_patch, merge_patch
from kubeproxy_bpf.sandbox.apiserver.resources import PODS, SERVICES
from kubeproxy_bpf.sandbox.apiserver.status import StatusError
from kubeproxy_bpf.sandbox.apiserver.strategic import strategic_merge


@pytest.mark.parametrize(
    "target, patch, result",
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": 1}, {"a": None}, {}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}, {"a": {"c": 2}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": 1}, {"a": {"b": {"c": None}}}, {"a": {"b": {}}}),
    ],
)
def test_merge_patch(target: Any, patch: Any, result: Any) -> None:
    """Null deletes, maps merge, lists are replaced."""
    assert merge_patch(target, patch) == result


@pytest.mark.parametrize(
    "operation, result",
    [
        ({"op": "add", "path": "/a/1", "value": 9}, {"a": [1, 9, 2], "b": {"c/d": 0}}),
        ({"op": "add", "path": "/a/-", "value": 9}, {"a": [1, 2, 9], "b": {"c/d": 0}}),
        ({"op": "remove", "path": "/a/0"}, {"a": [2], "b": {"c/d": 0}}),
        ({"op": "replace", "path": "/b/c~1d", "value": 5}, {"a": [1, 2], "b": {"c/d": 5}}),
        ({"op": "move", "from": "/b", "path": "/x"}, {"a": [1, 2], "x": {"c/d": 0}}),
        (
            {"op": "copy", "from": "/a/0", "path": "/b/e"},
            {"a": [1, 2], "b": {"c/d": 0, "e": 1}},
        ),
        ({"op": "test", "path": "/a/0", "value": 1}, {"a": [1, 2], "b": {"c/d": 0}}),
    ],
)
def test_json_patch(operation: Any, result: Any) -> None:
    """Each operation does what RFC 6902 says and leaves its target alone."""
    target = {"a": [1, 2], "b": {"c/d": 0}}
    assert json_patch(target, [operation]) == result
    assert target == {"a": [1, 2], "b": {"c/d": 0}}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "/none", "value": 1},
        {"op": "remove", "path": "/a/5"},
        {"op": "add", "path": "/a/4", "value": 1},
        {"op": "test", "path": "/a/0", "value": 2},
        {"op": "fly", "path": "/a"},
        {"op": "add", "path": "a", "value": 1},
        {"op": "replace", "path": "", "value": 1},
    ],
)
def test_json_patches_that_do_not_apply(operation: Any) -> None:
    """An operation that does not apply refuses the whole patch."""
    with pytest.raises(StatusError) as refused:
        json_patch({"a": [1, 2]}, [operation])
    assert refused.value.code == 422


def _ports(*numbers: int) -> Any:
    return {"spec": {"ports": [{"port": n, "name": f"p{n}"} for n in numbers]}}


@pytest.mark.parametrize(
    "patch, ports",
    [
        ([{"port": 2, "name": "x"}], [(1, "p1"), (2, "x")]),
        ([{"port": 3, "name": "n"}], [(1, "p1"), (2, "p2"), (3, "n")]),
        ([{"port": 1, "$patch": "delete"}], [(2, "p2")]),
        ([{"$patch": "replace"}, {"port": 7, "name": "y"}], [(7, "y")]),
        ([{"port": 1, "name": None}], [(1, None), (2, "p2")]),
    ],
)
def test_service_ports_merge_by_their_number(patch: Any, ports: Any) -> None:
    """Ports of a Service are matched by port; directives delete and replace."""
    merged = strategic_merge(SERVICES, _ports(1, 2), {"spec": {"ports": patch}})
    assert [(port["port"], port.get("name")) for port in merged["spec"]["ports"]] == ports


def test_the_order_of_a_list_can_be_set() -> None:
    """$setElementOrder sorts a merged list."""
    order = {"$setElementOrder/ports": [{"port": 2}, {"port": 1}]}
    merged = strategic_merge(SERVICES, _ports(1, 2), {"spec": order})
    assert [port["port"] for port in merged["spec"]["ports"]] == [2, 1]


def test_a_port_without_its_key_is_refused() -> None:
    """An item of a keyed list that lacks the key is a bad request."""
    with pytest.raises(StatusError):
        strategic_merge(SERVICES, _ports(1), {"spec": {"ports": [{"name": "x"}]}})


def test_lists_without_a_key_are_replaced() -> None:
    """externalIPs is replaced, finalizers are added to and taken from."""
    target = {"metadata": {"finalizers": ["a", "b"]}, "spec": {"externalIPs": ["1.1.1.1"]}}
    patch = {
        "metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]},
        "spec": {"externalIPs": ["2.2.2.2"]},
    }
    merged = strategic_merge(SERVICES, target, patch)
    assert merged == {
        "metadata": {"finalizers": ["b", "c"]},
        "spec": {"externalIPs": ["2.2.2.2"]},
    }


def test_maps_merge_and_are_replaced_on_demand() -> None:
    """A selector merges; $patch: replace, $patch: delete and $retainKeys do as they say."""
    target = {"spec": {"selector": {"a": "1", "b": "2"}, "type": "X", "old": 1}}
    assert strategic_merge(SERVICES, target, {"spec": {"selector": {"a": None, "c": "3"}}}) == {
        "spec": {"selector": {"b": "2", "c": "3"}, "type": "X", "old": 1}
    }
    replace = {"spec": {"selector": {"$patch": "replace", "z": "9"}}}
    assert strategic_merge(SERVICES, target, replace)["spec"]["selector"] == {"z": "9"}
    delete = {"spec": {"selector": {"$patch": "delete"}}}
    assert strategic_merge(SERVICES, target, delete)["spec"]["selector"] == {}
    retain = {"spec": {"$retainKeys": ["type"], "type": "Y"}}
    assert strategic_merge(SERVICES, target, retain) == {"spec": {"type": "Y"}}


def test_lists_within_lists_merge_by_their_own_key() -> None:
    """Ports of a pod's container are matched by containerPort within the container's name."""
    target = {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 1, "x": 1}]}]}}
    patch = {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 1, "y": 2}]}]}}
    merged = strategic_merge(PODS, target, patch)
    assert merged["spec"]["containers"][0]["ports"] == [{"containerPort": 1, "x": 1, "y": 2}]
