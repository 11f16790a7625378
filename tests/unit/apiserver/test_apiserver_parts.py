# SPDX-License-Identifier: Apache-2.0
"""Paths, selectors, negotiation, the store's past, and the benchmark cluster."""

from __future__ import annotations

import json

import pytest

from kubeproxy_bpf.sandbox.apiserver import bulk
from kubeproxy_bpf.sandbox.apiserver.listing import Page
from kubeproxy_bpf.sandbox.apiserver.resources import NODES, SERVICES, SLICES, Key, target_of
from kubeproxy_bpf.sandbox.apiserver.selectors import parse_fields, parse_labels
from kubeproxy_bpf.sandbox.apiserver.status import StatusError
from kubeproxy_bpf.sandbox.apiserver.store import Store
from kubeproxy_bpf.sandbox.apiserver.view import TableView, View, view_of


@pytest.mark.parametrize(
    "path, expected",
    [
        ("/api/v1/namespaces", ("namespaces", "", "", "")),
        ("/api/v1/namespaces/a", ("namespaces", "", "a", "")),
        ("/api/v1/namespaces/a/status", ("namespaces", "", "a", "status")),
        ("/api/v1/namespaces/a/services/b", ("services", "a", "b", "")),
        ("/api/v1/namespaces/a/services/b/status", ("services", "a", "b", "status")),
        ("/api/v1/services", ("services", "", "", "")),
        (
            "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices/b",
            ("endpointslices", "a", "b", ""),
        ),
        ("/apis/networking.k8s.io/v1/servicecidrs/x", ("servicecidrs", "", "x", "")),
    ],
)
def test_paths_name_their_target(path: str, expected: tuple[str, str, str, str]) -> None:
    """Resource, namespace, name and subresource are read from the path."""
    target = target_of(path)
    assert target is not None
    assert (target.resource.plural, *target[1:]) == expected


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/v1",
        "/api/v2/services",
        "/api/v1/services/x",
        "/api/v1/namespaces/a/nodes",
        "/api/v1/namespaces/a/services/b/scale",
        "/apis/discovery.k8s.io/v1/endpointslices/b/status",
        "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices/b/status",
        "/api/v1/namespaces/a/services/b/status/c",
    ],
)
def test_other_paths_name_nothing(path: str) -> None:
    """A path that is not served has no target."""
    assert target_of(path) is None


@pytest.mark.parametrize(
    "selector, labels, selected",
    [
        ("", {}, True),
        ("a=1", {"a": "1"}, True),
        ("a=1", {}, False),
        ("a!=1", {}, True),
        ("a in (1, 2),b", {"a": "2", "b": ""}, True),
        ("a in (1, 2),b", {"a": "2"}, False),
        ("a notin (1,2)", {"a": "1"}, False),
        ("a notin (1,2)", {}, True),
        ("!x.y/z", {"x.y/z": ""}, False),
        ("a=", {"a": ""}, True),
    ],
)
def test_label_selectors(selector: str, labels: dict[str, str], selected: bool) -> None:
    """Every requirement must hold; an absent label satisfies != and notin."""
    assert all(need.holds(labels.get(need.key)) for need in parse_labels(selector)) == selected


@pytest.mark.parametrize("selector", ["a in 1", "=x", "a=b=c", "a,,b", "a in (1"])
def test_label_selectors_that_make_no_sense(selector: str) -> None:
    """A selector that cannot be read is a bad request."""
    with pytest.raises(StatusError) as refused:
        parse_labels(selector)
    assert refused.value.code == 400


@pytest.mark.parametrize("selector", ["metadata.name", "status.color=red"])
def test_field_selectors_that_make_no_sense(selector: str) -> None:
    """A field selector needs an operator and a field that the kind offers."""
    with pytest.raises(StatusError):
        parse_fields(selector, NODES)


def test_the_first_acceptable_form_is_chosen() -> None:
    """kubectl's Accept header gives tables; one that names no JSON is refused."""
    table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    assert isinstance(view_of(table, SERVICES), TableView)
    unknown = "application/json;as=Song;v=v1;g=meta.k8s.io,application/json"
    assert type(view_of(unknown, SERVICES)) is View
    assert type(view_of("", SERVICES)) is View
    with pytest.raises(StatusError):
        view_of("application/yaml", SERVICES)


def _node(name: str, **labels: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


def test_every_past_state_within_the_window_can_be_read() -> None:
    """Undoing the log gives exactly the state of each version, and 410 before the window."""
    store = Store(window=6)
    states = {}
    for step in range(12):
        name = f"n{step % 4}"
        if step % 5 == 4:
            store.delete(NODES, Key("", name))
        else:
            store.put(_node(name, step=str(step)))
        states[store.version] = [(e.key.name, e.version) for e in store.snapshot(NODES)]
    for version, state in list(states.items())[-7:]:
        snapshot = store.snapshot(NODES, version)
        assert [(entry.key.name, entry.version) for entry in snapshot] == state
    with pytest.raises(StatusError) as gone:
        store.snapshot(NODES, store.version - 7)
    assert gone.value.code == 410


def test_a_deleted_object_carries_the_version_of_its_deletion() -> None:
    """The last state of an object has a version of its own."""
    store = Store()
    store.put(_node("n"))
    last = store.delete(NODES, Key("", "n"))
    assert last is not None
    assert last.obj["metadata"]["resourceVersion"] == str(store.version)
    assert store.delete(NODES, Key("", "n")) is None


def test_the_benchmark_cluster_is_what_its_functions_say() -> None:
    """Addresses, names and versions of the rendered bytes match, and the sizes are realistic."""
    store = Store()
    bulk.fill(store, bulk.Shape.parse("7x10"))
    services, slices = store.snapshot(SERVICES), store.snapshot(SLICES)
    assert (len(services), len(slices)) == (7, 7)
    for index, (service, slice_) in enumerate(zip(services, slices)):
        assert service.key == Key(bulk.NAMESPACE, bulk.service_name(index))
        assert service.obj["spec"]["clusterIP"] == bulk.cluster_ip(index)
        assert slice_.key.name == bulk.slice_name(index)
        found = [endpoint["addresses"][0] for endpoint in slice_.obj["endpoints"]]
        assert found == [bulk.endpoint_address(index, number, 10) for number in range(10)]
        for entry in (service, slice_):
            assert entry.obj["metadata"]["resourceVersion"] == str(entry.version)
        assert 1200 < len(service.raw) < 1600 and 4000 < len(slice_.raw) < 5000
    assert [bulk.cluster_ip(index) for index in (0, 1, 9999)] == [
        "10.96.1.0",
        "10.96.1.1",
        "10.96.40.15",
    ]
    assert len({bulk.endpoint_address(i, n, 10) for i in range(99) for n in range(10)}) == 990
    body = b"".join(View(SLICES).list_parts(Page(store.version, slices)))
    assert len(json.loads(body)["items"]) == 7
