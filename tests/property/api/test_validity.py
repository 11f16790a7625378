# SPDX-License-Identifier: Apache-2.0
"""Which addresses and ports of a Service are served, against a second statement of the rules.

The oracle knows nothing of the proxy: it reads the JSON and asks the ``ipaddress`` module.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Iterator

from hypothesis import given

from kubeproxy_bpf.plan.records import FrontendKey
from tests.examples import bounded
from tests.property.api_objects import NODE_ADDRESSES, SLICE, Json, own_node
from tests.property.hostile_objects import HOSTILE, slices, valid_or_not
from tests.property.pipeline import Pipeline

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
KUBELETS = {10248, 10250, 10255}
FAMILIES = {4: "IPv4", 6: "IPv6"}
BROADCAST = ipaddress.IPv4Address("255.255.255.255")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def address_of(text: str) -> Address | None:
    """An IP address as Kubernetes reads it: leading zeros count nothing, zones are none."""
    if "%" in text or not text.isascii() or "/" in text:
        return None
    if ":" not in text:
        parts = text.split(".")
        if not all(part.isdigit() for part in parts):
            return None
        text = ".".join(part.lstrip("0") or "0" for part in parts)
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def is_usable(address: Address | None) -> bool:
    return address is not None and not (
        address.is_unspecified
        or address.is_loopback
        or address.is_multicast
        or address.is_link_local
        or address == BROADCAST
    )


def usable(texts: Any, version: int) -> set[Address]:
    found = {address_of(text) for text in texts}
    return {a for a in found if a is not None and is_usable(a) and a.version == version}


def ports_of(spec: Json) -> Iterator[tuple[int, int, int]]:
    """Number, protocol and node port of each port that counts."""
    seen = set()
    for port in spec.get("ports", ()):
        protocol = PROTOCOLS.get(port.get("protocol") or "TCP")
        number, name = port.get("port", 0), port.get("name", "")
        if protocol and 1 <= number <= 65535 and (name, protocol) not in seen:
            seen.add((name, protocol))
            node_port = port.get("nodePort", 0)
            yield number, protocol, node_port if 1 <= node_port <= 65535 else 0


def cluster_ip(spec: Json, version: int) -> set[Address]:
    families = spec.get("ipFamilies") or ()
    if not families:
        return usable([spec["clusterIP"]], version)
    ips = spec.get("clusterIPs", ())
    at = families.index(FAMILIES[version]) if FAMILIES[version] in families else len(ips)
    return usable(ips[at : at + 1], version)


def expected(document: Json) -> set[tuple[str, int, int]]:
    """Every frontend that one Service has when it is alone."""
    spec = document["spec"]
    labels = document["metadata"]["labels"]
    if spec["clusterIP"] in ("", "None") or spec.get("type") == "ExternalName":
        return set()
    if "service.kubernetes.io/service-proxy-name" in labels:
        return set()
    found = set()
    for version, wildcard in ((4, "0.0.0.0"), (6, "::")):
        cluster_ips = cluster_ip(spec, version)
        ingress = document["status"]["loadBalancer"]["ingress"]
        vips = [i["ip"] for i in ingress if "ip" in i and i.get("ipMode") != "Proxy"]
        external = usable([*vips, *spec.get("externalIPs", ())], version)
        for number, protocol, node_port in ports_of(spec) if cluster_ips else ():
            own = {str(a) for a in external if str(a) in NODE_ADDRESSES}
            refused = own if number in KUBELETS and protocol == 6 else set()
            for address in cluster_ips | external:
                if str(address) not in refused or address in cluster_ips:
                    found.add((str(address), number, protocol))
            if node_port:
                found.add((wildcard, node_port, protocol))
    return found


def programmed(pipeline: Pipeline) -> set[tuple[str, int, int]]:
    return {(text_of(key), key.port, key.protocol) for key in pipeline.frontends(HOSTILE)}


def text_of(key: FrontendKey) -> str:
    address = ipaddress.IPv6Address(key.address)
    return str(address.ipv4_mapped or address)


@bounded(200)
@given(valid_or_not())
def test_exactly_what_is_valid_is_served(document: Json) -> None:
    """Addresses of each family, ports, node ports, and nothing for what is no Service of ours."""
    pipeline = Pipeline()
    pipeline.start([own_node(), document])
    assert programmed(pipeline) == expected(document)


@bounded(150)
@given(slices)
def test_exactly_the_valid_endpoints_are_served(document: Json) -> None:
    """Of each endpoint the first address, if it is one of the slice's family and of no special
    range."""
    document["metadata"]["labels"] = {"kubernetes.io/service-name": "bad-0"}
    document["addressType"] = document.get("addressType", "")
    family = document["addressType"]
    ports = [{"name": "p", "port": 80}]
    spec = {"clusterIP": "10.96.9.1", "clusterIPs": ["10.96.9.1", "fd00:96::9:1"], "ports": ports}
    spec["ipFamilies"] = ["IPv4", "IPv6"]
    meta = {"name": "bad-0", "namespace": HOSTILE}
    service = {"kind": "Service", "metadata": meta, "spec": spec, "status": {}}
    document["ports"] = [{"name": "p", "protocol": "TCP", "port": 8080}]
    pipeline = Pipeline()
    pipeline.start([own_node(), service, document])
    firsts = [e["addresses"][0] for e in document.get("endpoints", ()) if e.get("addresses")]
    version = {"IPv4": 4, "IPv6": 6}.get(family, 0)
    served = {
        ipaddress.IPv6Address(b.address).ipv4_mapped or ipaddress.IPv6Address(b.address)
        for b in pipeline.fake.backends.values()
    }
    assert served <= usable(firsts, version)
    assert document["kind"] == SLICE
