# SPDX-License-Identifier: Apache-2.0
"""Slices put together, and kept by Service."""

from kubeproxy_bpf.api.objects import EndpointSlice, ObjectKey, SlicePort
from kubeproxy_bpf.model.endpoints import Endpoints, endpoints_of, index_ports, problems_of
from kubeproxy_bpf.model.slices import SliceIndex
from kubeproxy_bpf.model.types import Family, Protocol
from tests.fix_objects import draining, endpoint_slice, ip, traits

WEB = ObjectKey("default", "web")


def http(*slices: EndpointSlice) -> Endpoints:
    return endpoints_of(index_ports(slices), Family.IPV4, "http", Protocol.TCP)


def twice(first, second) -> EndpointSlice:
    address = ip("10.244.2.10")
    return endpoint_slice({})._replace(addresses=(address, address), traits=(first, second))


def test_duplicates_within_a_slice() -> None:
    """[B6] The last one that is not terminating stays, wherever it stands."""
    key = (ip("10.244.2.10"), 8080)
    assert http(twice(traits(), draining())) == {key: traits()}
    assert http(twice(draining(), traits())) == {key: traits()}
    assert http(twice(traits("node-b"), traits("node-c"))) == {key: traits("node-c")}
    assert http(twice(draining("node-b"), draining("node-c"))) == {key: draining("node-b")}


def test_one_address_on_two_ports_is_two_endpoints() -> None:
    """[B6] The port is part of the identity: slices may name other target ports."""
    other = endpoint_slice({"10.244.2.10": traits()}, ports=(SlicePort("http", "TCP", 9090),))
    found = http(endpoint_slice({"10.244.2.10": traits()}), other)
    assert [port for _, port in found] == [8080, 9090]


def test_ports_join_by_name_and_protocol() -> None:
    """[A10] The name alone, or the protocol alone, is not enough."""
    ports = (SlicePort("http", "UDP", 1), SlicePort("https", "TCP", 2), SlicePort("http", "?", 3))
    assert not http(endpoint_slice({"10.244.2.10": traits()}, ports=ports))


def test_impossible_slice_ports_are_reported_and_not_used() -> None:
    """The slice's other ports are."""
    ports = (SlicePort("http", "TCP", 65536), SlicePort("x", "?", 1), SlicePort("http", "TCP", 80))
    one = endpoint_slice({"10.244.2.10": traits()}, ports=ports)
    assert list(http(one)) == [(ip("10.244.2.10"), 80)]
    assert [p.field for p in problems_of(one)] == ["ports[0].port", "ports[1].protocol"]


def test_slices_of_the_other_family_do_not_count() -> None:
    """[A7, I5]"""
    assert not http(endpoint_slice({"10.244.2.10": traits()}, address_type="IPv6"))


def test_slices_are_kept_by_service_and_sorted() -> None:
    """[A12] Whether or not the Service exists, and whatever order they come in."""
    index = SliceIndex()
    first, second = (endpoint_slice({}, name=name) for name in ("web-1", "web-2"))
    assert index.put(second) == {WEB} == index.put(first)
    assert index.of(WEB) == (first, second)
    assert index.remove(first.key) == {WEB}
    assert index.of(WEB) == (second,)
    assert index.remove(first.key) == set()
    assert index.remove(second.key) == {WEB}
    assert index.of(WEB) == () and not list(index)


def test_a_slice_that_stops_counting_is_removed() -> None:
    """[A5-A7] The headless label, an empty label or another type take its endpoints away."""
    for change in ({"headless": True}, {"service": ""}, {"address_type": "FQDN"}):
        index = SliceIndex()
        index.put(endpoint_slice({}))
        assert index.put(endpoint_slice({}, **change)) == {WEB}
        assert index.of(WEB) == ()
