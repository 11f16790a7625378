# SPDX-License-Identifier: Apache-2.0
"""Lists over HTTP: selectors, pages, versions, and forms of the answer."""

from __future__ import annotations

from typing import Any

import pytest

from kubeproxy_bpf.sandbox.apiserver import ApiServer

from .conftest import SERVICES, Client, service


def _put(server: ApiServer, name: str, labels: dict[str, str] | None = None, **spec: Any) -> None:
    server.registry.apply(service(name, labels, **spec))


async def test_a_list_names_its_kind_once(server: ApiServer, client: Client) -> None:
    """A list carries kind and version; its items carry neither, as on a real server."""
    _put(server, "a")
    body = (await client.get(SERVICES)).body
    assert (body["kind"], body["apiVersion"]) == ("ServiceList", "v1")
    assert body["metadata"] == {"resourceVersion": str(server.store.version)}
    assert "kind" not in body["items"][0] and "apiVersion" not in body["items"][0]


async def test_a_namespaced_list_holds_its_namespace_only(
    server: ApiServer, client: Client
) -> None:
    """Lists across namespaces hold all, lists within one hold its own."""
    other = service("b")
    other["metadata"]["namespace"] = "other"
    _put(server, "a")
    server.registry.apply(other)
    assert await client.names("/api/v1/services") == ["a", "b"]
    assert await client.names(SERVICES) == ["a"]
    assert await client.names("/api/v1/namespaces/other/services") == ["b"]


@pytest.mark.parametrize(
    "selector, names",
    [
        ("app=x", ["a", "b"]),
        ("app==x,!headless", ["a"]),
        ("app!=x", ["c", "d"]),
        ("app in (x, y)", ["a", "b", "c"]),
        ("app notin (x,y)", ["d"]),
        ("headless", ["b"]),
        ("!headless,!proxy", ["a", "c", "d"]),
    ],
)
async def test_lists_are_selected_by_labels(
    server: ApiServer, client: Client, selector: str, names: list[str]
) -> None:
    """Every form of label selector selects what Kubernetes says it does."""
    _put(server, "a", {"app": "x"})
    _put(server, "b", {"app": "x", "headless": ""})
    _put(server, "c", {"app": "y"})
    _put(server, "d")
    assert await client.names(SERVICES, labelSelector=selector) == names


async def test_lists_are_selected_by_fields(server: ApiServer, client: Client) -> None:
    """Names, cluster IPs and types select; a field that is not offered is a bad request."""
    _put(server, "a")
    _put(server, "b", clusterIP="None")
    _put(server, "c", type="NodePort")
    assert await client.names(SERVICES, fieldSelector="metadata.name=a") == ["a"]
    assert await client.names(SERVICES, fieldSelector="metadata.name!=a") == ["b", "c"]
    assert await client.names(SERVICES, fieldSelector="spec.clusterIP!=None") == ["a", "c"]
    selector = "spec.type=NodePort,metadata.namespace=default"
    assert await client.names(SERVICES, fieldSelector=selector) == ["c"]
    refused = await client.get(SERVICES, fieldSelector="spec.color=red")
    assert refused.status == 400 and "field label not supported" in refused.body["message"]


async def test_pods_are_selected_by_node_and_phase(server: ApiServer, client: Client) -> None:
    """spec.nodeName and status.phase select pods."""
    for name, node, phase in (
        ("a", "n1", "Running"),
        ("b", "n1", "Failed"),
        ("c", "n2", "Running"),
    ):
        meta = {"name": name}
        spec, status = {"nodeName": node}, {"phase": phase}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": status}
        server.registry.apply(pod)
    assert await client.names("/api/v1/pods", fieldSelector="spec.nodeName=n1") == ["a", "b"]
    selector = "spec.nodeName=n1,status.phase=Running"
    assert await client.names("/api/v1/pods", fieldSelector=selector) == ["a"]


async def test_pages_come_from_one_snapshot(server: ApiServer, client: Client) -> None:
    """Pages show the state of the first page, whatever changes in between."""
    for name in ("a", "b", "c", "d"):
        _put(server, name)
    first = (await client.get(SERVICES, limit=2)).body
    assert first["metadata"]["remainingItemCount"] == 2
    server.store.delete(*_located("c"))
    _put(server, "bb")
    _put(server, "d", {"new": "label"})
    token = first["metadata"]["continue"]
    second = (await client.get(SERVICES, **{"limit": 2, "continue": token})).body
    assert [item["metadata"]["name"] for item in second["items"]] == ["c", "d"]
    assert second["items"][1]["metadata"]["labels"] == {}
    assert second["metadata"] == {"resourceVersion": first["metadata"]["resourceVersion"]}
    assert await client.names(SERVICES) == ["a", "b", "bb", "d"]


def _located(name: str) -> Any:
    from kubeproxy_bpf.sandbox.apiserver.resources import SERVICES as RESOURCE
    from kubeproxy_bpf.sandbox.apiserver.resources import Key

    return RESOURCE, Key("default", name)


async def test_an_old_continue_token_is_gone(server: ApiServer, client: Client) -> None:
    """A token whose snapshot is compacted is answered with 410 Expired; nonsense with 400."""
    for name in ("a", "b", "c"):
        _put(server, name)
    token = (await client.get(SERVICES, limit=1)).body["metadata"]["continue"]
    _put(server, "d")
    server.store.compact()
    answer = await client.get(SERVICES, **{"limit": 1, "continue": token})
    assert (answer.status, answer.body["reason"]) == (410, "Expired")
    assert (await client.get(SERVICES, **{"continue": "!"})).status == 400


async def test_versions_in_list_requests(server: ApiServer, client: Client) -> None:
    """Unset and 0 give the present, Exact the past, NotOlderThan the present, the future 504."""
    _put(server, "a")
    past = server.store.version
    _put(server, "b")
    assert await client.names(SERVICES, resourceVersion=0) == ["a", "b"]
    exact = {"resourceVersion": past, "resourceVersionMatch": "Exact"}
    assert await client.names(SERVICES, **exact) == ["a"]
    assert await client.names(SERVICES, resourceVersion=past, limit=5) == ["a"]
    later = {"resourceVersion": past, "resourceVersionMatch": "NotOlderThan"}
    assert await client.names(SERVICES, **later) == ["a", "b"]
    future = await client.get(SERVICES, resourceVersion=past + 1000)
    assert (future.status, future.body["reason"]) == (504, "Timeout")
    assert future.body["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"
    server.store.compact()
    assert (await client.get(SERVICES, **exact)).status == 410


@pytest.mark.parametrize(
    "query",
    [
        {"resourceVersionMatch": "Exact"},
        {"resourceVersionMatch": "Exact", "resourceVersion": 0},
        {"resourceVersionMatch": "Maybe", "resourceVersion": 1},
        {"sendInitialEvents": "true"},
        {"watch": "true", "sendInitialEvents": "true"},
        {"watch": "true", "resourceVersionMatch": "NotOlderThan", "resourceVersion": 0},
        {"resourceVersion": "x"},
    ],
)
async def test_options_that_contradict_each_other_are_invalid(
    client: Client, query: dict[str, Any]
) -> None:
    """The combinations that a real server refuses are refused with 422."""
    assert (await client.get(SERVICES, **query)).status == 422


@pytest.mark.parametrize(
    "accept, code",
    [
        ("application/json", 200),
        ("*/*", 200),
        ("application/vnd.kubernetes.protobuf,application/json", 200),
        ("application/vnd.kubernetes.protobuf", 406),
        ("text/html", 406),
    ],
)
async def test_json_is_spoken_when_offered(client: Client, accept: str, code: int) -> None:
    """JSON is the answer whenever the client takes it, else 406 as a Status."""
    answer = await client.call("GET", SERVICES, headers={"Accept": accept})
    assert answer.status == code
    assert answer.headers["Content-Type"].startswith("application/json")
    assert code == 200 or answer.body["reason"] == "NotAcceptable"


async def test_protobuf_bodies_are_refused(client: Client) -> None:
    """A protobuf body is answered with 415 and a Status."""
    headers = {"Content-Type": "application/vnd.kubernetes.protobuf"}
    answer = await client.call("POST", SERVICES, b"k8s\0", headers=headers)
    assert (answer.status, answer.body["reason"]) == (415, "UnsupportedMediaType")
    answer = await client.patch(f"{SERVICES}/x", {}, "other")
    assert answer.status == 415


async def test_tables_are_made_for_kubectl(server: ApiServer, client: Client) -> None:
    """A Table has a cell per column and the metadata of each object."""
    _put(server, "web", type="NodePort", ports=[{"port": 80, "nodePort": 30123}])
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    table = (await client.call("GET", SERVICES, headers={"Accept": accept})).body
    row = table["rows"][0]
    cells = dict(zip([c["name"] for c in table["columnDefinitions"]], row["cells"]))
    assert table["kind"] == "Table" and len(row["cells"]) == len(table["columnDefinitions"])
    assert (cells["Name"], cells["Type"], cells["Port(s)"]) == ("web", "NodePort", "80:30123/TCP")
    assert row["object"]["kind"] == "PartialObjectMetadata"


async def test_metadata_alone_can_be_listed(server: ApiServer, client: Client) -> None:
    """PartialObjectMetadata leaves out everything but the metadata."""
    _put(server, "web")
    accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
    listed = (await client.call("GET", SERVICES, headers={"Accept": accept})).body
    assert listed["kind"] == "PartialObjectMetadataList"
    assert set(listed["items"][0]) == {"kind", "apiVersion", "metadata"}


async def test_objects_no_cluster_would_store_can_be_listed(
    server: ApiServer, client: Client
) -> None:
    """The store takes impossible objects as they are, next to which all others are served."""
    bad = service("bad", clusterIP="banana", ports=[{"port": "word", "protocol": 7}])
    bad["metadata"]["labels"] = ["no", "map"]
    server.store.put(bad)
    _put(server, "good", {"app": "x"})
    assert await client.names(SERVICES) == ["bad", "good"]
    assert await client.names(SERVICES, labelSelector="app=x") == ["good"]
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
    table = (await client.call("GET", SERVICES, headers={"Accept": accept})).body
    assert [row["cells"][0] for row in table["rows"]] == ["bad", "good"]
