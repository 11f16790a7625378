# SPDX-License-Identifier: Apache-2.0
"""What the model compiles again, what it gives out, and when."""

import pytest

from kubeproxy_bpf.api.objects import HostPort, Ingress, ObjectKey
from kubeproxy_bpf.model import cluster
from kubeproxy_bpf.model.cluster import ClusterModel
from kubeproxy_bpf.model.facts import ModelConfig, NodeAddresses
from kubeproxy_bpf.model.types import ServicePortId
from tests.fix_objects import HTTP, NODE, draining, endpoint_slice, ip, node, pod, service, traits

WEB = ServicePortId("service", "default", "web", "http", 6, 4)
HOST_PORT = HostPort("", 8000, 80, "TCP")


@pytest.fixture
def model() -> ClusterModel:
    """A model that knows all lists and was asked once."""
    made = ClusterModel(ModelConfig(NODE))
    made.mark_complete()
    made.take()
    return made


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the Services compiled, in order."""
    names: list[str] = []
    original = cluster.compile_service

    def recorded(value, *others):
        names.append(value.name)
        return original(value, *others)

    monkeypatch.setattr(cluster, "compile_service", recorded)
    return names


def test_nothing_comes_out_before_all_lists_are_known() -> None:
    """[K8] A Service whose slices are not here yet is not one without endpoints."""
    model = ClusterModel(ModelConfig(NODE))
    model.set_service(service())
    assert not model.has_changes
    step = model.take()
    assert not step.changes.services and not step.changes.vips and not step.changes.complete
    model.set_slice(endpoint_slice({"10.244.2.10": traits()}))
    model.mark_complete()
    assert model.has_changes
    changes = model.take().changes
    assert changes.complete and len(changes.services[WEB].backends) == 1
    assert ip("10.96.0.1") in changes.vips


def test_only_the_first_result_is_complete(model: ClusterModel) -> None:
    """After it, what is not named has not changed."""
    model.set_service(service())
    assert not model.take().changes.complete


def test_an_empty_cluster_is_complete_too() -> None:
    """Whatever is programmed is stale then."""
    model = ClusterModel(ModelConfig(NODE))
    model.mark_complete()
    assert model.has_changes
    assert model.take().changes == ({}, {}, True)
    assert not model.has_changes


def test_a_full_synchronisation_gives_everything_again(model: ClusterModel) -> None:
    """Said again, mark_complete makes the next result name all that should be programmed."""
    model.set_service(service())
    model.set_pod(pod(HOST_PORT))
    model.set_node_addresses(NodeAddresses(frozenset({ip("192.168.0.1")}), frozenset()))
    first = model.take().changes
    assert not model.take().changes.services
    model.mark_complete()
    assert model.take().changes == first._replace(complete=True)


def test_what_changes_back_does_not_come_out(model: ClusterModel) -> None:
    """Between two results only the end counts."""
    model.set_service(service())
    model.set_slice(endpoint_slice({"10.244.2.10": traits()}))
    model.take()
    model.set_service(service(external_ips=("203.0.113.7",)))
    model.set_slice(endpoint_slice({}))
    model.set_service(service())
    model.set_slice(endpoint_slice({"10.244.2.10": traits()}))
    assert model.has_changes
    changes = model.take().changes
    assert not changes.services and not changes.vips


def test_what_arrives_unchanged_is_not_compiled(model: ClusterModel, compiled: list[str]) -> None:
    """[K14] A relist that finds everything as it was costs no compilation."""

    def relist() -> None:
        model.set_service(service())
        model.set_slice(endpoint_slice({"10.244.2.10": traits()}))
        model.set_pod(pod(HOST_PORT))

    relist()
    model.take()
    compiled.clear()
    relist()
    assert not model.has_changes
    model.take()
    assert compiled == []


def test_what_makes_no_difference_does_not_come_out(model: ClusterModel) -> None:
    """An endpoint that gets a node hint without effect changes nothing."""
    model.set_service(service())
    model.set_slice(endpoint_slice({"10.244.2.10": traits()}))
    model.take()
    hinted = traits(hint_nodes=frozenset({"node-c"}))
    model.set_slice(endpoint_slice({"10.244.2.10": hinted}))
    assert not model.take().changes.services


def test_a_service_that_came_and_went_was_never_there(model: ClusterModel) -> None:
    """[A13] Nothing is withdrawn that was not given out."""
    model.set_service(service())
    model.remove_service(service().key)
    model.remove_service(ObjectKey("default", "unknown"))
    model.remove_pod(ObjectKey("default", "unknown"))
    model.remove_slice(ObjectKey("default", "unknown"))
    assert not model.take().changes.services


def test_an_event_compiles_its_own_service_only(model: ClusterModel, compiled: list[str]) -> None:
    """The work is in proportion to the Service, not to the cluster."""
    for number in range(1, 20):
        model.set_service(service(name=f"s{number}", cluster_ips=(f"10.96.0.{number}",)))
    model.take()
    compiled.clear()
    model.set_slice(endpoint_slice({"10.244.2.10": traits()}, service="s7"))
    model.take()
    assert compiled == ["s7"]


def test_a_moved_slice_concerns_both_services(model: ClusterModel) -> None:
    """[A6] The label names another Service: one loses the endpoints, the other gets them."""
    model.set_service(service())
    model.set_service(service(name="other", cluster_ips=("10.96.0.2",)))
    model.set_slice(endpoint_slice({"10.244.2.10": traits()}))
    model.take()
    model.set_slice(endpoint_slice({"10.244.2.10": traits()}, service="other"))
    changes = model.take().changes.services
    assert {port.name: len(desired.backends) for port, desired in changes.items()} == {
        "web": 0,
        "other": 1,
    }


def test_a_zone_change_compiles_what_has_zone_hints(
    model: ClusterModel, compiled: list[str]
) -> None:
    """[D7] Other Services do not depend on the zone, other nodes and deletions do not matter."""
    model.set_service(service(name="plain", cluster_ips=("10.96.0.2",)))
    model.set_service(service())
    zones = {"10.244.2.10": traits(hint_zones=frozenset({"east"}))}
    model.set_slice(endpoint_slice(zones))
    model.set_slice(endpoint_slice({"10.244.2.11": traits()}, service="plain", name="plain-1"))
    model.take()
    compiled.clear()
    model.set_node(node(name="node-b", zone="east"))
    model.set_node(node(zone=""))
    assert not model.has_changes
    model.set_node(node(zone="east"))
    model.take()
    assert compiled == ["web"]


def test_a_node_address_compiles_what_has_a_backend_there(
    model: ClusterModel, compiled: list[str]
) -> None:
    """Link-local addresses, which come with each pod's veth, compile nothing at all."""
    model.set_service(service(name="plain", cluster_ips=("10.96.0.2",)))
    model.set_service(service())
    model.set_slice(endpoint_slice({"192.168.0.1": traits(NODE)}))
    model.set_slice(endpoint_slice({"10.244.2.11": traits()}, service="plain", name="plain-1"))
    model.set_pod(pod(HOST_PORT, pod_ips=("192.168.0.9",)))
    model.take()
    compiled.clear()
    model.set_node_addresses(NodeAddresses(frozenset({ip("fe80::1")})))
    model.take()
    assert compiled == []
    model.set_node_addresses(NodeAddresses(frozenset(map(ip, ("192.168.0.1", "192.168.0.9")))))
    changes = model.take().changes
    assert compiled == ["web"]
    assert sorted(port.source for port in changes.services) == ["pod", "service"]


def test_new_problems_are_told_once(model: ClusterModel) -> None:
    """A problem is told when it comes up, and told again when it comes back."""
    bad = service(cluster_ips=("10.96.0.300",))
    model.set_service(bad)
    assert [problem.field for problem in model.take().problems] == ["spec.clusterIPs[0]"]
    model.set_service(bad._replace(uid="other"))
    assert not model.take().problems and len(model.problems()) == 1
    model.set_service(service())
    assert not model.take().problems and not model.problems()
    model.set_service(bad)
    assert len(model.take().problems) == 1


def test_problems_of_slices_are_told_once(model: ClusterModel) -> None:
    """[A6] A slice without its label is told, also when its Service is never compiled."""
    orphan = endpoint_slice({"10.244.2.10": traits()}, service="")
    model.set_slice(orphan)
    assert [problem.kind for problem in model.take().problems] == ["EndpointSlice"]
    model.set_slice(orphan)
    assert not model.take().problems and len(model.problems()) == 1
    model.remove_slice(orphan.key)
    assert not model.problems()


def test_a_headless_slice_is_no_problem(model: ClusterModel) -> None:
    """[A5] It is not ours, label or no label."""
    model.set_slice(endpoint_slice({}, headless=True, service=""))
    assert not model.take().problems


def test_a_lost_frontend_is_told_to_the_one_who_lost_it(model: ClusterModel) -> None:
    """The young Service has the address until the old one comes; then it is told, once."""
    young = service(name="young", created="2025", external_ips=("203.0.113.7",))
    model.set_service(young._replace(cluster_ips=("10.96.0.2",)))
    assert not model.take().problems
    model.set_service(service(name="old", external_ips=("203.0.113.7",)))
    step = model.take()
    assert [(p.name, p.field) for p in step.problems] == [("young", "spec.externalIPs")]
    assert {port.name for port in step.changes.services} == {"young", "old"}
    model.set_slice(endpoint_slice({"10.244.2.10": traits()}, service="young"))
    assert not model.take().problems


def test_a_service_port_without_any_frontend_is_not_given_out(model: ClusterModel) -> None:
    """A host port that another Pod has leaves nothing to program, until its turn comes."""
    model.set_pod(pod(HOST_PORT, name="old"))
    model.take()
    model.set_pod(pod(HOST_PORT, name="young", created="2025"))
    assert not model.take().changes.services
    model.set_pod(pod(HOST_PORT, name="old", created="2026"))
    changes = model.take().changes.services
    assert {port.name: desired is None for port, desired in changes.items()} == {
        "old": True,
        "young": False,
    }


def test_extent_is_in_the_order_of_the_windows(model: ClusterModel) -> None:
    """[D8, J2] Cluster set only, both, local set only, no set: the sets are windows."""
    zone = {"hint_zones": frozenset({"east"})}
    away = {"hint_zones": frozenset({"west"})}
    model.set_node(node(zone="east"))
    model.set_service(
        service(
            external_policy="Local", type="LoadBalancer", ingress=(Ingress("198.51.100.1", "VIP"),)
        )
    )
    endpoints = {
        "10.0.0.1": draining(),
        "10.0.0.2": traits(NODE, **away),
        "10.0.0.3": traits(NODE, **zone),
        "10.0.0.4": traits("node-b", **zone),
    }
    model.set_slice(endpoint_slice(endpoints))
    desired = model.take().changes.services[WEB]
    assert desired is not None
    assert [backend.address[-1] for backend in desired.backends] == [4, 3, 2, 1]
    assert (desired.cluster_count, desired.local_first, desired.local_count) == (2, 1, 2)


def test_extent_does_not_depend_on_the_order_of_endpoints(model: ClusterModel) -> None:
    """[B9] The controller may list them anew in another order: nothing changes."""
    here_and_there = [("10.0.0.2", traits()), ("10.0.0.1", traits(NODE)), ("10.0.0.3", traits())]
    for policy in ("Cluster", "Local"):
        model.set_service(service(internal_policy=policy))
        model.set_slice(endpoint_slice(dict(here_and_there)))
        model.take()
        model.set_slice(endpoint_slice(dict(reversed(here_and_there))))
        assert model.has_changes and not model.take().changes.services


def test_node_hints_alone_are_no_plain_endpoints(model: ClusterModel) -> None:
    """[D2] The short cut for plain endpoints does not overlook them."""
    model.set_service(service())
    hints = {name: traits(hint_nodes=frozenset({name})) for name in (NODE, "node-b")}
    model.set_slice(endpoint_slice({"10.0.0.1": hints[NODE], "10.0.0.2": hints["node-b"]}))
    desired = model.take().changes.services[WEB]
    assert desired is not None and desired.cluster_count == 1 and len(desired.backends) == 2


def test_an_empty_local_window_starts_at_zero(model: ClusterModel) -> None:
    """Two records of the same meaning are the same record."""
    ports = (HTTP._replace(node_port=30080),)
    model.set_service(service(type="NodePort", external_policy="Local", ports=ports))
    model.set_slice(endpoint_slice({"10.0.0.1": traits(), "10.0.0.2": traits()}))
    desired = model.take().changes.services[WEB]
    assert desired is not None
    assert (desired.cluster_count, desired.local_first, desired.local_count) == (2, 0, 0)


def test_api_server_endpoints_survive_per_family(model: ClusterModel) -> None:
    """default/kubernetes keeps the last known endpoints of a family that has none now."""
    key = {"namespace": "default", "name": "kubernetes", "service": "kubernetes"}
    model.set_service(service(name="kubernetes"))
    slice_4 = endpoint_slice({"192.168.0.10": traits(None)}, **key)
    model.set_slice(slice_4)
    dead = traits(None, ready=False, serving=False)
    for worse in (endpoint_slice({"192.168.0.10": dead}, **key), slice_4._replace(ports=())):
        model.take()
        model.set_slice(worse)
        assert not model.take().changes.services


def test_health_checks_come_with_the_changes(model: ClusterModel) -> None:
    """Only of Services that were looked at, and empty once when a Service needs none any more."""
    balanced = service(type="LoadBalancer", external_policy="Local", health_check_node_port=32000)
    model.set_service(service(name="plain", cluster_ip="10.96.0.2", cluster_ips=("10.96.0.2",)))
    assert {} == model.take().health_checks
    model.set_service(balanced)
    (check,) = model.take().health_checks[balanced.key]
    assert (32000, 0) == (check.port, check.local_endpoints)
    model.set_slice(endpoint_slice({"10.244.1.10": traits(NODE)}))
    assert 1 == model.take().health_checks[balanced.key][0].local_endpoints
    model.set_service(balanced._replace(external_policy="Cluster"))
    assert {balanced.key: ()} == model.take().health_checks
    model.remove_service(balanced.key)
    assert {} == model.take().health_checks


def test_a_service_that_goes_takes_its_health_check_along(model: ClusterModel) -> None:
    """Its port is to be closed."""
    balanced = service(type="LoadBalancer", external_policy="Local", health_check_node_port=32000)
    model.set_service(balanced)
    model.take()
    model.remove_service(balanced.key)
    assert {balanced.key: ()} == model.take().health_checks


def test_what_an_earlier_process_knew_of_the_api_server_counts(model: ClusterModel) -> None:
    """It stands in for endpoints that are missing, never for others, and not for another family."""
    key = {"namespace": "default", "name": "kubernetes", "service": "kubernetes"}
    old = endpoint_slice({"192.0.2.1": traits()}, **key)
    new = endpoint_slice({"192.0.2.2": traits()}, **key)
    model.remember_api_server([old])
    assert (old,) == model.api_server_slices()
    model.set_slice(new)
    model.remember_api_server([old])
    assert (new,) == model.api_server_slices()
    model.remove_slice(new.key)
    assert (new,) == model.api_server_slices(), "what was seen last, not what was recalled"
