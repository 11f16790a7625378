# SPDX-License-Identifier: Apache-2.0
"""Single objects over HTTP: create, get, update, patch, delete, and the errors of each."""

from __future__ import annotations

import pytest

from .conftest import SERVICES, SLICES, Client, endpoint_slice, service


async def test_a_created_object_has_what_the_server_adds(client: Client) -> None:
    """A create answers 201 with uid, version, creation time, generation and defaults."""
    answer = await client.call("POST", SERVICES, service("web"))
    meta = answer.body["metadata"]
    assert answer.status == 201
    assert meta["uid"] and meta["creationTimestamp"].endswith("Z") and meta["generation"] == 1
    assert int(meta["resourceVersion"]) > 0 and meta["namespace"] == "default"
    assert answer.body["spec"]["clusterIP"].startswith("10.96.")
    assert (await client.get(f"{SERVICES}/web")).body == answer.body


async def test_versions_grow_with_every_write_of_any_kind(client: Client) -> None:
    """The resourceVersion is one counter for all kinds."""
    first = await client.call("POST", SERVICES, service("web"))
    second = await client.call("POST", SLICES, endpoint_slice("web-1", "10.0.0.1"))
    versions = [int(a.body["metadata"]["resourceVersion"]) for a in (first, second)]
    assert versions[0] < versions[1]


async def test_yaml_bodies_are_understood(client: Client) -> None:
    """A body in YAML creates an object."""
    text = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n"
    headers = {"Content-Type": "application/yaml"}
    assert (await client.call("POST", SERVICES, text, headers=headers)).status == 201


@pytest.mark.parametrize(
    "method, path, content, code, reason",
    [
        ("GET", f"{SERVICES}/none", None, 404, "NotFound"),
        ("GET", "/api/v1/gadgets", None, 404, "NotFound"),
        ("POST", SERVICES, service("held"), 409, "AlreadyExists"),
        ("POST", SERVICES, b"{", 400, "BadRequest"),
        ("POST", SERVICES, {"kind": "Service"}, 400, "BadRequest"),
        ("POST", SERVICES, endpoint_slice("x"), 400, "BadRequest"),
        ("POST", SERVICES, service("x", ports=[{"port": 0}]), 422, "Invalid"),
        ("POST", "/api/v1/namespaces/none/services", service("x"), 404, "NotFound"),
        ("PUT", f"{SERVICES}/none", service("none"), 404, "NotFound"),
        ("PUT", f"{SERVICES}/held", service("other"), 400, "BadRequest"),
        ("DELETE", f"{SERVICES}/none", None, 404, "NotFound"),
        ("POST", f"{SERVICES}/held", service("held"), 405, "MethodNotAllowed"),
        ("GET", f"{SERVICES}?limit=x", None, 400, "BadRequest"),
    ],
)
async def test_errors_are_status_objects(
    client: Client, method: str, path: str, content: object, code: int, reason: str
) -> None:
    """Every refusal is a Status with the code and reason that clients branch on."""
    await client.call("POST", SERVICES, service("held"))
    answer = await client.call(method, path, content)
    assert (answer.status, answer.body["kind"], answer.body["status"]) == (
        code,
        "Status",
        "Failure",
    )
    assert (answer.body["code"], answer.body["reason"]) == (code, reason)
    assert answer.body["message"]


async def test_a_stale_version_is_a_conflict(client: Client) -> None:
    """An update with an old resourceVersion is refused; one with the present or none is not."""
    stale = (await client.call("POST", SERVICES, service("web"))).body
    fresh = (await client.patch(f"{SERVICES}/web", {"metadata": {"labels": {"a": "1"}}})).body
    refused = await client.call("PUT", f"{SERVICES}/web", stale)
    assert (refused.status, refused.body["reason"]) == (409, "Conflict")
    assert (await client.call("PUT", f"{SERVICES}/web", fresh)).status == 200
    assert (await client.call("PUT", f"{SERVICES}/web", service("web"))).status == 200


async def test_a_patch_can_demand_a_version(client: Client) -> None:
    """A resourceVersion within a patch is checked like that of an update."""
    await client.call("POST", SERVICES, service("web"))
    answer = await client.patch(f"{SERVICES}/web", {"metadata": {"resourceVersion": "1"}})
    assert answer.status == 409


async def test_a_write_that_changes_nothing_makes_no_version(client: Client) -> None:
    """An update to the same content keeps the resourceVersion, so no watch hears of it."""
    created = (await client.call("POST", SERVICES, service("web"))).body
    again = (await client.call("PUT", f"{SERVICES}/web", created)).body
    assert again == created


async def test_the_generation_counts_changes_of_the_spec_only(client: Client) -> None:
    """A label leaves the generation, a port raises it."""
    await client.call("POST", SERVICES, service("web"))
    labelled = await client.patch(f"{SERVICES}/web", {"metadata": {"labels": {"a": "1"}}})
    changed = await client.patch(f"{SERVICES}/web", {"spec": {"ports": [{"port": 81}]}})
    assert labelled.body["metadata"]["generation"] == 1
    assert changed.body["metadata"]["generation"] == 2


@pytest.mark.parametrize(
    "kind, patch",
    [
        ("merge", {"spec": {"ports": [{"port": 81, "targetPort": 1}]}}),
        ("json", [{"op": "replace", "path": "/spec/ports/0/port", "value": 81}]),
        ("strategic-merge", {"spec": {"ports": [{"port": 80, "$patch": "delete"}, {"port": 81}]}}),
    ],
)
async def test_the_three_patches_change_an_object(client: Client, kind: str, patch: object) -> None:
    """JSON patch, merge patch and strategic merge patch reach the stored object."""
    await client.call("POST", SERVICES, service("web"))
    answer = await client.patch(f"{SERVICES}/web", patch, kind)
    assert answer.status == 200
    assert [port["port"] for port in answer.body["spec"]["ports"]] == [81]
    assert (await client.get(f"{SERVICES}/web")).body == answer.body


async def test_server_side_apply_creates_then_merges(client: Client) -> None:
    """An apply patch answers 201 the first time, 200 the second, and 422 without a manager."""
    headers = {"Content-Type": "application/apply-patch+yaml"}
    path, text = f"{SERVICES}/web", "spec: {ports: [{port: 80}]}"
    assert (await client.call("PATCH", path, text, headers=headers)).status == 422
    first = await client.call("PATCH", path, text, headers=headers, fieldManager="t")
    assert first.status == 201
    second = await client.call(
        "PATCH", path, "metadata: {labels: {a: b}}", headers=headers, fieldManager="t"
    )
    assert second.status == 200
    assert second.body["metadata"]["labels"] == {"a": "b"}
    assert second.body["spec"] == first.body["spec"]


async def test_the_status_is_written_through_its_subresource_only(client: Client) -> None:
    """A plain update leaves the status, an update of /status leaves the rest."""
    ingress = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    created = (await client.call("POST", SERVICES, {**service("web"), "status": ingress})).body
    assert created["status"] == {"loadBalancer": {}}
    plain = await client.call("PUT", f"{SERVICES}/web", {**created, "status": ingress})
    assert plain.body["status"] == {"loadBalancer": {}}
    wanted = {**created, "status": ingress, "spec": {"ports": [{"port": 99}]}}
    status = await client.call("PUT", f"{SERVICES}/web/status", wanted)
    assert status.body["status"]["loadBalancer"]["ingress"] == [
        {"ip": "192.0.2.1", "ipMode": "VIP"}
    ]
    assert status.body["spec"]["ports"][0]["port"] == 80
    patched = await client.patch(f"{SERVICES}/web/status", {"status": None, "spec": None})
    assert patched.body["status"] == {"loadBalancer": {}}


async def test_a_dry_run_stores_nothing(client: Client) -> None:
    """dryRun=All answers as if, for creates, updates and deletes."""
    assert (await client.call("POST", SERVICES, service("web"), dryRun="All")).status == 201
    assert (await client.get(f"{SERVICES}/web")).status == 404
    await client.call("POST", SERVICES, service("web"))
    assert (await client.call("DELETE", f"{SERVICES}/web", dryRun="All")).status == 200
    patch = {"metadata": {"labels": {"a": "b"}}}
    assert (await client.patch(f"{SERVICES}/web", patch, dryRun="All")).status == 200
    assert (await client.get(f"{SERVICES}/web")).body["metadata"]["labels"] == {}


async def test_a_delete_names_what_it_removed(client: Client) -> None:
    """A delete is immediate, answers a Status with the uid, and honours its preconditions."""
    created = (await client.call("POST", SERVICES, service("web"))).body
    wrong = {"kind": "DeleteOptions", "preconditions": {"uid": "other"}}
    assert (await client.call("DELETE", f"{SERVICES}/web", wrong)).status == 409
    options = {"kind": "DeleteOptions", "gracePeriodSeconds": 30}
    answer = await client.call("DELETE", f"{SERVICES}/web", options)
    assert (answer.status, answer.body["status"]) == (200, "Success")
    assert answer.body["details"]["uid"] == created["metadata"]["uid"]
    assert (await client.get(f"{SERVICES}/web")).status == 404


async def test_a_collection_is_deleted_by_selector(client: Client) -> None:
    """deletecollection removes what its selector selects and nothing else."""
    for name, label in (("a", "x"), ("b", "y"), ("c", "x")):
        await client.call("POST", SERVICES, service(name, {"l": label}))
    answer = await client.call("DELETE", SERVICES, labelSelector="l=x")
    assert answer.status == 200 and len(answer.body["items"]) == 2
    assert await client.names(SERVICES) == ["b"]


async def test_a_deleted_namespace_takes_its_objects_along(client: Client) -> None:
    """Deleting a Namespace removes what lies in it."""
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}
    assert (await client.call("POST", "/api/v1/namespaces", space)).status == 201
    assert (await client.call("POST", "/api/v1/namespaces/n/services", service("s"))).status == 201
    assert (await client.call("DELETE", "/api/v1/namespaces/n")).status == 200
    assert await client.names("/api/v1/services") == []


async def test_names_are_generated(client: Client) -> None:
    """generateName gives each object a name of its own."""
    obj = service("x")
    obj["metadata"] = {"generateName": "web-"}
    names = {(await client.call("POST", SERVICES, obj)).body["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3 and all(name.startswith("web-") for name in names)


@pytest.mark.parametrize("kind", ["nodes", "servicecidrs"])
async def test_cluster_scoped_kinds_live_outside_namespaces(client: Client, kind: str) -> None:
    """A cluster-scoped kind has no path below a namespace."""
    group = "/api/v1" if kind == "nodes" else "/apis/networking.k8s.io/v1"
    assert (await client.get(f"{group}/{kind}")).status == 200
    assert (await client.get(f"{group}/namespaces/default/{kind}")).status == 404


async def test_the_service_ranges_are_objects(client: Client) -> None:
    """The configured ranges are visible as the ServiceCIDR "kubernetes"."""
    answer = await client.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes")
    assert answer.body["spec"]["cidrs"] == ["10.96.0.0/16", "fd00:10:96::/112"]


async def test_events_are_one_storage_under_two_groups(client: Client) -> None:
    """An events.k8s.io Event is seen as a core Event and back, and can be patched."""
    new = "/apis/events.k8s.io/v1/namespaces/default/events"
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "e"},
        "note": "hello",
        "regarding": {"kind": "Node", "name": "n1"},
        "reportingController": "kube-proxy",
    }
    assert (await client.call("POST", new, event)).body["note"] == "hello"
    core = (await client.get("/api/v1/namespaces/default/events/e")).body
    assert (core["apiVersion"], core["message"]) == ("v1", "hello")
    assert core["involvedObject"] == {"kind": "Node", "name": "n1"}
    patched = await client.patch(f"{new}/e", {"series": {"count": 2}, "note": "again"})
    assert patched.body["series"] == {"count": 2} and patched.body["note"] == "again"
    assert await client.names("/api/v1/events", fieldSelector="involvedObject.name=n1") == ["e"]
    listed = (await client.get(new)).body
    assert listed["items"][0]["note"] == "again"
