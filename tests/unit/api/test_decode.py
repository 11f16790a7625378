# SPDX-License-Identifier: Apache-2.0
"""Each field of each kind, as it comes and as it may be absent, null or wrong."""

from __future__ import annotations

from typing import Any, Callable

import msgspec
import pytest

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.api.decode import (
    DecodeError,
    Kind,
    Malformed,
    decoder_of,
    identify,
    parse_bookmark,
    parse_event,
    parse_page,
    parse_status,
)
from kubeproxy_bpf.api.objects import (
    EndpointSlice,
    EndpointTraits,
    HostPort,
    Ingress,
    Node,
    ObjectKey,
    Pod,
    Service,
    ServicePort,
    SlicePort,
)
from tests.decoding import META, decode, service


def slice_(**document: Any) -> EndpointSlice:
    found = decode(Kind.ENDPOINT_SLICE, {"metadata": META, **document}).object
    assert isinstance(found, EndpointSlice)
    return found


def traits(**endpoint: Any) -> EndpointTraits:
    endpoint = {"addresses": ["10.0.0.1"], **endpoint}
    return slice_(addressType="IPv4", endpoints=[endpoint]).traits[0]


def test_a_service_with_everything() -> None:
    """Every field that the proxy reads arrives, every other is dropped."""
    found = service(
        metadata={
            **META,
            "uid": "u1",
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": {"service.kubernetes.io/service-proxy-name": "", "a": "b"},
            "annotations": {"kubeproxy-bpf.io/b": "2", "kubeproxy-bpf.io/a": "1", "other": "3"},
        },
        spec={
            "type": "LoadBalancer",
            "clusterIP": "10.96.0.1",
            "clusterIPs": ["10.96.0.1", "fd00::1"],
            "ipFamilies": ["IPv4", "IPv6"],
            "ports": [{"name": "p", "protocol": "UDP", "port": 53, "nodePort": 30053}],
            "externalIPs": ["192.0.2.1"],
            "loadBalancerSourceRanges": [" 10.0.0.0/8 "],
            "internalTrafficPolicy": "Local",
            "externalTrafficPolicy": "Local",
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "healthCheckNodePort": 32000,
            "selector": {"a": "b"},
        },
        status={"loadBalancer": {"ingress": [{"ip": "192.0.2.9", "ipMode": "Proxy"}, {}]}},
    )
    assert found == Service(
        namespace="d",
        name="x",
        uid="u1",
        created="2026-01-02T03:04:05Z",
        type="LoadBalancer",
        cluster_ip="10.96.0.1",
        cluster_ips=("10.96.0.1", "fd00::1"),
        ip_families=("IPv4", "IPv6"),
        ports=(ServicePort("p", "UDP", 53, 30053),),
        external_ips=("192.0.2.1",),
        ingress=(Ingress("192.0.2.9", "Proxy"), Ingress("", "VIP")),
        source_ranges=(" 10.0.0.0/8 ",),
        internal_policy="Local",
        external_policy="Local",
        affinity="ClientIP",
        affinity_timeout_s=60,
        health_check_node_port=32000,
        proxy_name="",
        annotations=(("kubeproxy-bpf.io/a", "1"), ("kubeproxy-bpf.io/b", "2")),
    )


NULLS = ("type", "clusterIP", "clusterIPs", "ipFamilies", "ports", "externalIPs")
NULLS += ("loadBalancerSourceRanges", "internalTrafficPolicy", "externalTrafficPolicy")
NULLS += ("sessionAffinity", "sessionAffinityConfig", "healthCheckNodePort")


@pytest.mark.parametrize("spec", [None, {}, dict.fromkeys(NULLS)])
def test_absent_and_null_fields_of_a_service_are_defaults(spec: Any) -> None:
    """null means absent, and both mean what the API server would have filled in."""
    found = service(spec=spec, status=None, metadata={**META, "labels": None, "annotations": None})
    assert found == service()
    assert (found.type, found.affinity, found.affinity_timeout_s) == ("ClusterIP", "None", 10800)
    assert (found.internal_policy, found.external_policy) == ("Cluster", "Cluster")
    assert found.ports == () and found.proxy_name is None


def test_a_service_port_has_defaults() -> None:
    """TCP, no name and no node port."""
    assert service(spec={"ports": [{"port": 80}]}).ports == (ServicePort("", "TCP", 80, 0),)


@pytest.mark.parametrize("status", [None, {}, {"loadBalancer": None}, {"loadBalancer": {}}])
def test_absent_load_balancer_status(status: Any) -> None:
    """No ingress at any depth of absence; ipMode is VIP where absent."""
    assert service(status=status).ingress == ()
    balanced = service(status={"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}})
    assert balanced.ingress == (Ingress("192.0.2.9", "VIP"),)


def test_an_endpoint_slice_with_everything() -> None:
    """Labels, ports, addresses and traits."""
    found = slice_(
        metadata={**META, "labels": {"kubernetes.io/service-name": "s", "a": "b"}},
        addressType="IPv6",
        ports=[{"name": "p", "protocol": "UDP", "port": 53, "appProtocol": "x"}],
        endpoints=[
            {
                "addresses": ["fd00::1", "fd00::2"],
                "conditions": {"ready": False, "serving": True, "terminating": True},
                "nodeName": "n1",
                "hints": {
                    "forZones": [{"name": "z1"}, {"name": "z2"}],
                    "forNodes": [{"name": "n"}],
                },
            }
        ],
    )
    address = parse_address("fd00::1")
    assert address is not None
    hints = frozenset({"z1", "z2"}), frozenset({"n"})
    assert found == EndpointSlice(
        namespace="d",
        name="x",
        service="s",
        headless=False,
        address_type="IPv6",
        ports=(SlicePort("p", "UDP", 53),),
        addresses=(address,),
        traits=(EndpointTraits(False, True, True, "n1", *hints),),
    )


@pytest.mark.parametrize("conditions", [None, {}, dict.fromkeys(("ready", "serving"))])
def test_unknown_conditions_are_ready_serving_and_not_terminating(conditions: Any) -> None:
    """[B1, B2, B3]; serving is not copied from ready."""
    assert traits(conditions=conditions)[:3] == (True, True, False)
    assert traits(conditions={"ready": False})[:3] == (False, True, False)


def test_absent_node_and_hints() -> None:
    """No node name is None, which is nobody's; an empty hint list is no hint [B4, B8]."""
    assert traits()[3:] == (None, frozenset(), frozenset())
    assert traits(hints={"forZones": [], "forNodes": None})[3:] == (None, frozenset(), frozenset())


def test_traits_and_strings_are_shared() -> None:
    """Endpoints alike hold one object, across slices."""
    first, second = traits(nodeName="node-x"), traits(nodeName="node-x")
    assert first is second


def test_slice_ports_without_name_or_number_are_dropped() -> None:
    """nil name, nil or 0 number: nobody's; an empty name is a name [A11]."""
    ports = [{"name": None, "port": 1}, {"port": 2}, {"name": "a"}, {"name": "b", "port": 0}]
    ports += [{"name": "c", "port": None}, {"name": "", "port": 3}]
    assert slice_(ports=ports).ports == (SlicePort("", "TCP", 3),)


@pytest.mark.parametrize("labels", [None, {}, {"service.kubernetes.io/headless": None}])
def test_the_presence_of_the_headless_label_counts(labels: Any) -> None:
    """Any value of it, or none, makes the slice headless [A5]; no service name is ""."""
    found = slice_(metadata={**META, "labels": labels})
    assert found.headless == bool(labels) and found.service == ""


def test_names_of_fqdn_slices_are_not_addresses() -> None:
    """They are neither kept nor complained about [A7]."""
    endpoints = [{"addresses": ["example.org"]}]
    decoded = decode(
        Kind.ENDPOINT_SLICE, {"metadata": META, "addressType": "FQDN", "endpoints": endpoints}
    )
    assert decoded.problems == ()
    assert isinstance(decoded.object, EndpointSlice) and decoded.object.addresses == ()


def test_unusable_addresses_are_left_out_and_named() -> None:
    """An address that is none, or of the other family, costs its endpoint only; endpoints without
    any address are passed over [B5]."""
    addresses = [["10.0.0.1"], ["10.0.0"], [], None, ["fd00::1"], ["10.0.0.02", "junk"]]
    endpoints = [{"addresses": a} for a in addresses]
    decoded = decode(
        Kind.ENDPOINT_SLICE, {"metadata": META, "addressType": "IPv4", "endpoints": endpoints}
    )
    assert isinstance(decoded.object, EndpointSlice)
    assert decoded.object.addresses == (parse_address("10.0.0.1"), parse_address("10.0.0.2"))
    fields = [p.field for p in decoded.problems]
    assert fields == ["$.endpoints[1].addresses[0]", "$.endpoints[4].addresses[0]"]


def test_a_node() -> None:
    """Zone, CIDRs, addresses in order, taints by key."""
    document = {
        "metadata": {
            "name": "n1",
            "labels": {"topology.kubernetes.io/zone": "z"},
            "deletionTimestamp": "2026-01-02T03:04:05Z",
        },
        "spec": {"podCIDRs": ["10.1.0.0/24"], "taints": [{"key": "k", "effect": "NoSchedule"}]},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
    }
    expected = Node("n1", "z", ("10.1.0.0/24",), (("InternalIP", "10.0.0.1"),), True, ("k",))
    assert decode(Kind.NODE, document).object == expected


def test_a_bare_node() -> None:
    """podCIDR stands in for podCIDRs; all else is empty."""
    document = {"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.1.0.0/24", "taints": None}}
    expected = Node("n1", "", ("10.1.0.0/24",), (), False, ())
    assert decode(Kind.NODE, document).object == expected


def test_a_pod() -> None:
    """Host ports of containers and of sidecars, not of other init containers; port 0 is none."""

    def container(*ports: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"ports": list(ports), **more}

    document = {
        "metadata": {**META, "uid": "u", "creationTimestamp": "t"},
        "spec": {
            "nodeName": "n1",
            "hostNetwork": False,
            "containers": [
                container({"containerPort": 80}, {"containerPort": 81, "hostPort": 8081}),
                container({"hostPort": 53, "protocol": "UDP", "hostIP": "10.0.0.1"}),
            ],
            "initContainers": [
                container({"containerPort": 1, "hostPort": 1}),
                container({"containerPort": 2, "hostPort": 2}, restartPolicy="Always"),
            ],
        },
        "status": {"phase": "Running", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}]},
    }
    found = decode(Kind.POD, document).object
    assert isinstance(found, Pod)
    assert found.host_ports == (
        HostPort("", 8081, 81, "TCP"),
        HostPort("10.0.0.1", 53, 0, "UDP"),
        HostPort("", 2, 2, "TCP"),
    )
    assert found[:9] == ("d", "x", "u", "t", "n1", "Running", False, False, ("10.1.0.1",))


def test_a_bare_pod() -> None:
    """podIP stands in for podIPs; absent containers are no host ports."""
    document = {"metadata": META, "status": {"podIP": "10.1.0.1"}}
    found = decode(Kind.POD, document).object
    assert isinstance(found, Pod) and found.pod_ips == ("10.1.0.1",) and found.host_ports == ()


@pytest.mark.parametrize(
    "kind, document, field",
    [
        (Kind.SERVICE, {"spec": {"ports": [{"port": "http"}]}}, "$.spec.ports[0].port"),
        (Kind.SERVICE, {"spec": {"ports": {}}}, "$.spec.ports"),
        (Kind.SERVICE, {"spec": {"clusterIPs": [1]}}, "$.spec.clusterIPs[0]"),
        (Kind.SERVICE, {"spec": 7}, "$.spec"),
        (Kind.ENDPOINT_SLICE, {"endpoints": [{"addresses": "x"}]}, "$.endpoints[0].addresses"),
        (
            Kind.ENDPOINT_SLICE,
            {"endpoints": [{}, {"conditions": {"ready": "yes"}}]},
            "$.endpoints[1].conditions.ready",
        ),
        (Kind.NODE, {"status": {"addresses": [{"type": 1}]}}, "$.status.addresses[0].type"),
        (Kind.POD, {"spec": {"containers": [{"ports": 1}]}}, "$.spec.containers[0].ports"),
    ],
)
def test_a_wrong_type_names_object_and_field(kind: Kind, document: Any, field: str) -> None:
    """The error says which object, which version and where in it."""
    with pytest.raises(DecodeError) as raised:
        decode(kind, {"metadata": META, **document})
    error = raised.value
    assert (error.kind, error.key, error.version) == (kind, ObjectKey("d", "x"), "7")
    assert error.field == field and field in str(error) and "d/x" in str(error)


@pytest.mark.parametrize("meta", [{}, {"name": ""}, {"name": 1}, None, "x"])
def test_an_object_without_a_name_has_no_key(meta: Any) -> None:
    """It cannot be told apart, and the error says so."""
    with pytest.raises(DecodeError) as raised:
        decode(Kind.SERVICE, {"metadata": meta})
    assert raised.value.key is None and "unnamed" in str(raised.value)


def test_identity_is_read_from_any_object() -> None:
    """However broken the rest; cluster-wide objects have an empty namespace."""
    raw = msgspec.Raw(b'{"spec":[[]],"metadata":{"name":"n","resourceVersion":9}}')
    assert identify(raw) == (ObjectKey("", "n"), "")


@pytest.mark.parametrize(
    "line", [b"", b"{}", b'{"type":"ADDED"}', b"null", b'{"type":1,"object":{}}']
)
def test_a_line_that_is_no_event_is_malformed(line: bytes) -> None:
    """The envelope must hold; what is inside it need not."""
    with pytest.raises(Malformed):
        parse_event(line)
    assert parse_event(b'{"type":"NEW","object":[1]}').type == "NEW"


def test_an_empty_list_may_be_null() -> None:
    """Go writes a nil slice as null; absent items are not a list."""
    body = b'{"kind":"PodList","metadata":{"resourceVersion":"1"},"items":null}'
    assert parse_page(body, Kind.POD).items == ()
    with pytest.raises(Malformed, match="no items"):
        parse_page(body.replace(b',"items":null', b""), Kind.POD)


NEST = 100_000
DEEP = b"[" * NEST + b"]" * NEST


@pytest.mark.parametrize(
    "parse, text",
    [
        (parse_event, b'{"type":"ADDED","object":%s}'),
        (lambda text: parse_page(text, Kind.SERVICE), b'{"kind":"ServiceList","items":[%s]}'),
        (lambda text: parse_bookmark(msgspec.Raw(text)), b'{"metadata":{"annotations":{"a":%s}}}'),
        (
            lambda text: decoder_of(Kind.SERVICE).decode(msgspec.Raw(text)),
            b'{"metadata":{"name":"a"},"x":%s}',
        ),
    ],
)
def test_what_is_nested_too_deeply_is_malformed(
    parse: Callable[[bytes], object], text: bytes
) -> None:
    """The decoder's way to say so is a RecursionError."""
    with pytest.raises((Malformed, DecodeError)):
        parse(text % DEEP)


def test_a_status_nested_too_deeply_is_none() -> None:
    """An error whose body says nothing is an error still."""
    assert parse_status(b'{"details":{"causes":[{"a":%s}]}}' % DEEP) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:01:40Z", 100.0),
        ("1970-01-01T00:01:40.250000000Z", 100.25),
        ("1970-01-01T01:01:40+01:00", 100.0),
        ("1970-01-01T00:01:40", 0.0),
        ("yesterday", 0.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_the_trigger_time_of_a_slice(text: Any, seconds: float) -> None:
    """Unix time, from what the controller wrote; what is no time is none, and no error."""
    name = "endpoints.kubernetes.io/last-change-trigger-time"
    assert slice_(metadata={**META, "annotations": {name: text, "other": "x"}}).triggered == seconds
    assert slice_(metadata={**META, "annotations": None}).triggered == 0.0
