# SPDX-License-Identifier: Apache-2.0
"""Defaults, validation and allocation of Services, through the registry."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from kubeproxy_bpf.sandbox.apiserver.registry import Registry
from kubeproxy_bpf.sandbox.apiserver.resources import SERVICES, SLICES, Key
from kubeproxy_bpf.sandbox.apiserver.services import ServiceRules
from kubeproxy_bpf.sandbox.apiserver.status import StatusError
from kubeproxy_bpf.sandbox.apiserver.store import Store, namespace_object

CIDRS = ("10.96.0.0/28", "fd00::/120")


def _registry(*cidrs: str, validate: bool = True, node_ports: range = range(30000, 30004)) -> Any:
    store = Store()
    store.put(namespace_object("default"))
    networks = [ipaddress.ip_network(cidr) for cidr in cidrs or CIDRS]
    return Registry(store, ServiceRules(store, networks, node_ports), validate=validate)


def _service(name: str = "web", **spec: Any) -> Any:
    fields = {"ports": [{"port": 80}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": fields}


def _create(registry: Registry, name: str = "web", **spec: Any) -> Any:
    registry.create(SERVICES, "default", _service(name, **spec))
    return _spec(registry, name)


def _update(registry: Registry, name: str = "web", **spec: Any) -> Any:
    registry.update(SERVICES, Key("default", name), _service(name, **spec))
    return _spec(registry, name)


def _spec(registry: Any, name: str) -> Any:
    return registry._store.get(SERVICES, Key("default", name)).obj["spec"]


def _refused(registry: Registry, **spec: Any) -> str:
    with pytest.raises(StatusError) as refused:
        _create(registry, **spec)
    assert refused.value.code == 422
    return refused.value.message


def test_a_bare_service_is_completed() -> None:
    """What a cluster fills in is filled in, and nothing more."""
    assert _create(_registry()) == {
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        "internalTrafficPolicy": "Cluster",
        "ipFamilyPolicy": "SingleStack",
        "clusterIP": "10.96.0.2",
        "clusterIPs": ["10.96.0.2"],
        "ipFamilies": ["IPv4"],
    }


def test_client_affinity_lasts_three_hours_by_default() -> None:
    """sessionAffinity ClientIP gets 10800 s; a given time stays; None drops the time."""
    registry = _registry()
    default = _create(registry, sessionAffinity="ClientIP")
    assert default["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
    given = {"clientIP": {"timeoutSeconds": 5}}
    spec = _update(registry, sessionAffinity="ClientIP", sessionAffinityConfig=given)
    assert spec["sessionAffinityConfig"] == given
    assert "sessionAffinityConfig" not in _update(registry, sessionAffinityConfig=given)


@pytest.mark.parametrize(
    "wish, families",
    [
        ({}, ["IPv4"]),
        ({"ipFamilies": ["IPv6"]}, ["IPv6"]),
        ({"ipFamilyPolicy": "PreferDualStack"}, ["IPv4", "IPv6"]),
        ({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}, ["IPv6", "IPv4"]),
        ({"clusterIP": "fd00::9"}, ["IPv6"]),
        ({"clusterIPs": ["fd00::9", "10.96.0.9"]}, ["IPv6", "IPv4"]),
    ],
)
def test_families_follow_the_policy(wish: Any, families: list[str]) -> None:
    """Each family of a Service gets an address of its range, in order."""
    spec = _create(_registry(), **wish)
    assert spec["ipFamilies"] == families
    found = [f"IPv{ipaddress.ip_address(ip).version}" for ip in spec["clusterIPs"]]
    assert found == families and spec["clusterIP"] == spec["clusterIPs"][0]


def test_a_single_stack_cluster_prefers_in_vain() -> None:
    """PreferDualStack is content with one family, RequireDualStack is refused."""
    assert _create(_registry("10.0.0.0/24"), ipFamilyPolicy="PreferDualStack")["clusterIPs"] == [
        "10.0.0.2"
    ]
    assert "dual-stack" in _refused(_registry("10.0.0.0/24"), ipFamilyPolicy="RequireDualStack")
    assert "not configured" in _refused(
        _registry("10.0.0.0/24"), ipFamilyPolicy="PreferDualStack", ipFamilies=["IPv6"]
    )


def test_addresses_are_given_once_until_the_range_is_full() -> None:
    """No address is given twice; a full range is refused; a deleted Service frees its own."""
    registry = _registry("10.96.0.0/29")
    given = [_create(registry, f"s{n}")["clusterIP"] for n in range(5)]
    assert len(set(given)) == 5
    with pytest.raises(StatusError):
        _create(registry, "full")
    registry.delete(SERVICES, Key("default", "s3"))
    assert _create(registry, "next")["clusterIP"] == given[3]


def test_a_requested_address_must_be_free_and_in_range() -> None:
    """clusterIP is honoured within the range, refused outside, when taken, and when no address."""
    registry = _registry()
    assert _create(registry, "a", clusterIP="10.96.0.9")["clusterIP"] == "10.96.0.9"
    assert "already allocated" in _refused(registry, clusterIP="10.96.0.9")
    assert "not in the valid range" in _refused(registry, clusterIP="10.97.0.1")
    assert "valid IPv4" in _refused(registry, clusterIP="banana")


def test_the_cluster_ip_is_kept_and_fixed() -> None:
    """An update without clusterIP keeps it; another one is refused; ExternalName gives it up."""
    registry = _registry()
    ip = _create(registry)["clusterIP"]
    assert _update(registry, ports=[{"port": 81}])["clusterIP"] == ip
    with pytest.raises(StatusError):
        _update(registry, clusterIP="10.96.0.9")
    assert "clusterIP" not in _update(registry, type="ExternalName", externalName="x.y")
    assert _update(registry)["clusterIP"].startswith("10.96.0.")


def test_headless_services_have_no_address() -> None:
    """clusterIP None stays as it is and needs no ports."""
    spec = _create(_registry(), clusterIP="None", ports=[])
    assert (spec["clusterIPs"], spec["ipFamilies"]) == (["None"], ["IPv4"])


def test_node_ports_are_given_kept_and_freed() -> None:
    """Each port gets a node port, an update keeps it, ClusterIP gives it back."""
    registry = _registry()
    ports = [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]
    given = [port["nodePort"] for port in _create(registry, type="NodePort", ports=ports)["ports"]]
    assert given == [30000, 30001]
    kept = _update(registry, type="NodePort", ports=ports[::-1])["ports"]
    assert [port["nodePort"] for port in kept] == [30001, 30000]
    freed = _update(registry, type="ClusterIP", ports=kept)["ports"]
    assert all("nodePort" not in port for port in freed)
    assert _create(registry, "b", type="NodePort", ports=[{"port": 1, "nodePort": 30000}])
    assert "already allocated" in _refused(
        registry, name="c", type="NodePort", ports=[{"port": 1, "nodePort": 30000}]
    )
    assert "not in the valid range" in _refused(
        registry, name="c", type="NodePort", ports=[{"port": 1, "nodePort": 80}]
    )


def test_a_given_node_port_is_not_given_to_its_neighbour() -> None:
    """Within one Service, a number that one port asks for goes to no other."""
    ports = [{"port": 80, "name": "a", "nodePort": 30000}, {"port": 81, "name": "b"}]
    spec = _create(_registry(), type="NodePort", ports=ports)
    assert [port["nodePort"] for port in spec["ports"]] == [30000, 30001]


def test_a_service_may_give_up_its_second_family() -> None:
    """Going back to SingleStack keeps the first family and its address."""
    registry = _registry()
    both = _create(registry, ipFamilyPolicy="PreferDualStack")
    wish = {name: both[name] for name in ("clusterIP", "clusterIPs", "ipFamilies")}
    one = _update(registry, ipFamilyPolicy="SingleStack", **wish)
    assert (one["ipFamilies"], one["clusterIPs"]) == (["IPv4"], both["clusterIPs"][:1])


def test_load_balancers_may_go_without_node_ports() -> None:
    """allocateLoadBalancerNodePorts decides; Local gets a health check port."""
    registry = _registry()
    assert "nodePort" in _create(registry, "a", type="LoadBalancer")["ports"][0]
    spec = _create(
        registry,
        "b",
        type="LoadBalancer",
        allocateLoadBalancerNodePorts=False,
        externalTrafficPolicy="Local",
    )
    assert "nodePort" not in spec["ports"][0] and spec["healthCheckNodePort"] == 30001


@pytest.mark.parametrize(
    "wrong",
    [
        {"ports": []},
        {"ports": [{"port": 0}]},
        {"ports": [{"port": "word"}]},
        {"ports": [{"port": 80, "protocol": "QUIC"}]},
        {"ports": [{"port": 80}, {"port": 81}]},
        {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]},
        {"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]},
        {"ports": [{"port": 80, "targetPort": "Not A Name"}]},
        {"ports": [{"port": 80, "nodePort": 30001}]},
        {"type": "Magic"},
        {"sessionAffinity": "Sticky"},
        {
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}},
        },
        {"internalTrafficPolicy": "Far"},
        {"externalTrafficPolicy": "Local"},
        {"externalIPs": ["127.0.0.1"]},
        {"loadBalancerSourceRanges": ["x"]},
        {"name": "1web"},
        {"name": "Web"},
    ],
)
def test_impossible_services_are_refused(wrong: Any) -> None:
    """What no cluster stores is refused, and stored all the same without validation."""
    _refused(_registry(), **wrong)
    assert _create(_registry(validate=False), **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"addressType": "IPv5"},
        {"endpoints": [{"addresses": []}]},
        {"endpoints": [{"addresses": ["fd00::1"]}]},
        {"ports": [{"port": 70000}]},
        {"ports": [{"port": 1, "protocol": "QUIC"}]},
        {"endpoints": [{"addresses": ["10.0.0.1"]}] * 1001},
    ],
)
def test_impossible_slices_are_refused(wrong: Any) -> None:
    """EndpointSlices are checked for family, counts and ports."""
    good = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "s"},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"]}],
        "ports": [{"port": 80}],
    }
    with pytest.raises(StatusError):
        _registry().create(SLICES, "default", {**good, **wrong})
    _registry(validate=False).create(SLICES, "default", {**good, **wrong})
    registry = _registry()
    registry.create(SLICES, "default", good)
    with pytest.raises(StatusError):
        other = {**good, "addressType": "IPv6", "endpoints": []}
        registry.update(SLICES, Key("default", "s"), other)
