# SPDX-License-Identifier: Apache-2.0
"""API objects as JSON documents: valid ones, odd values, and ways to spoil a document.

``worlds`` gives Services with their EndpointSlices as an API server sends them; they pass the
validation of the embedded one, and no two of them contest anything. ``spoiled`` replaces, removes
and doubles parts of any document. Objects that are meant badly are in ``hostile_objects``.
"""

from __future__ import annotations

import copy
from typing import Any, Callable, Iterator
from zlib import crc32

from hypothesis import strategies as st

from tests.fix_objects import NODE

Json = dict[str, Any]
Path = tuple[str | int, ...]

SLICE, CIDR = "EndpointSlice", "ServiceCIDR"
GROUPS = {"Service": "v1", SLICE: "discovery.k8s.io/v1", "Node": "v1", "Pod": "v1"}
NODE_IP, NODE_IP6 = "192.0.2.11", "2001:db8::11"

VALID_ADDRESSES = ["10.9.0.1", "203.0.113.99", "10.9.0.041", "fd09::1", "FD09:0::2"]
NODE_ADDRESSES = [NODE_IP, NODE_IP6]
UNFIT_ADDRESSES = [
    *("127.0.0.1", "127.8.9.10", "::1", "0.0.0.0", "::", "255.255.255.255"),
    *("224.0.0.251", "ff02::1", "169.254.169.254", "fe80::1", "febf::1", "239.1.2.3"),
]
NO_ADDRESSES = [
    *("", "None", "10.9.0", "10.9.0.256", "10.9.0.1.1", "1", "10.9.0.1/32", " 10.9.0.1"),
    *("::ffff:10.9.0.1", "fe80::1%eth0", "fd09:::1", "0x0a.9.0.1", "１０.9.0.1", "١٠.9.0.1"),
    *("10.9.0.1\0", "\ud800", "example.com", "-1.0.0.0", "0" * 300 + ".0.0.1", "9" * 5000, "🜁"),
]
NUMBERS = [
    *(-(10**30), -(2**63), -1, 0, 1, 53, 80, 10250, 30080, 65535, 65536, 2**31, 2**32, 2**63),
    *(2**64, 10**30, 80.0, 80.5, 1e300, -0.0),
]
PROTOCOLS = ["TCP", "UDP", "SCTP", "tcp", "", "ICMP", "TCP\0", "T" * 5000]
NAMES = ["http", "", "dns", "HTTP", "a" * 5000, "näme", "\ud83d", "a/b", "../..", "\n", "\x1b[31m"]

TEXTS = st.one_of(
    st.sampled_from([*VALID_ADDRESSES, *UNFIT_ADDRESSES, *NO_ADDRESSES, *NAMES]),
    st.text(max_size=20),
)
ADDRESSES = st.one_of(
    st.sampled_from(VALID_ADDRESSES + NODE_ADDRESSES),
    st.sampled_from(UNFIT_ADDRESSES),
    TEXTS,
    st.ip_addresses().map(str),
)
ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.sampled_from(NUMBERS), st.integers(), st.floats(), TEXTS
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def maybe(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    """An object that has any of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


def few(inner: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[list[Any]]:
    return st.lists(inner, max_size=most)


def choice(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


def integers(*likely: int) -> st.SearchStrategy[Any]:
    """Numbers as a port field may hold them, most of them of the right type."""
    return st.one_of(choice(*likely), choice(*(n for n in NUMBERS if isinstance(n, int))))


def metadata(name: str, namespace: str = "default", created: str = "2024", **more: Any) -> Json:
    """With what an API server adds to it and nobody here reads."""
    return {
        "name": name,
        "namespace": namespace,
        "uid": f"00000000-0000-4000-8000-{crc32(name.encode()):012d}",
        "creationTimestamp": f"{created}-01-01T00:00:00Z",
        "generation": 1,
        "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
        **more,
    }


def document(kind: str, meta: Json, **parts: Any) -> Json:
    version = GROUPS.get(kind, "networking.k8s.io/v1")
    return {"apiVersion": version, "kind": kind, "metadata": meta, **parts}


# ---- valid ones ----


@st.composite
def worlds(draw: st.DrawFn) -> list[Json]:
    """Up to three Services and their slices; the number of a Service makes it unlike the others."""
    count = draw(st.integers(1, 3))
    return [part for number in range(count) for part in draw(good_service(number))]


@st.composite
def good_service(draw: st.DrawFn, number: int) -> list[Json]:
    """A Service and its slices, one for each family."""
    families = draw(st.sampled_from([["IPv4"], ["IPv6"], ["IPv4", "IPv6"]]))
    kind = draw(st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]))
    outside = kind != "ClusterIP"
    ips = {"IPv4": f"10.96.0.{10 + number}", "IPv6": f"fd00:96::{10 + number}"}
    ports = draw(st.lists(st.sampled_from(["TCP", "UDP"]), min_size=1, max_size=2, unique=True))
    spec: Json = {
        "type": kind,
        "clusterIP": ips[families[0]],
        "clusterIPs": [ips[family] for family in families],
        "ipFamilies": families,
        "ipFamilyPolicy": "SingleStack" if len(families) == 1 else "RequireDualStack",
        "selector": {"app": f"good-{number}"},
        "ports": [
            {"name": p.lower(), "protocol": p, "port": 80 + number, "targetPort": 8080}
            | ({"nodePort": 30000 + number} if outside else {})
            for p in ports
        ],
        "sessionAffinity": draw(st.sampled_from(["None", "ClientIP"])),
        "internalTrafficPolicy": draw(st.sampled_from(["Cluster", "Local"])),
    }
    if spec["sessionAffinity"] == "ClientIP":
        spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": 600}}
    if draw(st.booleans()):
        spec["externalIPs"] = [f"203.0.113.{10 + number}"]
    if outside or "externalIPs" in spec:
        spec["externalTrafficPolicy"] = draw(st.sampled_from(["Cluster", "Local"]))
    if kind == "LoadBalancer" and spec["externalTrafficPolicy"] == "Local":
        spec["healthCheckNodePort"] = 32000 + number
    if kind == "LoadBalancer" and draw(st.booleans()):
        spec["loadBalancerSourceRanges"] = ["198.18.0.0/15"]
    ingress = [{"ip": f"198.51.100.{10 + number}"}] if kind == "LoadBalancer" else []
    service = document(
        "Service",
        metadata(f"good-{number}"),
        spec=spec,
        status={"loadBalancer": {"ingress": ingress} if ingress else {}},
    )
    return [service, *(draw(good_slice(number, family, ports)) for family in families)]


@st.composite
def good_slice(draw: st.DrawFn, number: int, family: str, protocols: list[str]) -> Json:
    """Up to four endpoints that no other Service has."""
    template = f"10.244.{number}.{{}}" if family == "IPv4" else f"fd00:244:{number}::{{}}"
    endpoints = [
        {
            "addresses": [template.format(position)],
            "conditions": draw(
                st.sampled_from(
                    [
                        {"ready": True, "serving": True, "terminating": False},
                        {"ready": False, "serving": True, "terminating": True},
                        {},
                    ]
                )
            ),
            "nodeName": draw(st.sampled_from([NODE, "node-b"])),
        }
        for position in range(1, draw(st.integers(0, 4)) + 1)
    ]
    name = f"good-{number}"
    labels = {"kubernetes.io/service-name": name}
    return document(
        SLICE,
        metadata(f"{name}-{family.lower()}", labels=labels),
        addressType=family,
        ports=[{"name": p.lower(), "protocol": p, "port": 8080} for p in protocols],
        endpoints=endpoints,
    )


def own_node() -> Json:
    addresses = [{"type": "InternalIP", "address": text} for text in NODE_ADDRESSES]
    return document(
        "Node",
        {"name": NODE, "labels": {"topology.kubernetes.io/zone": "east"}},
        spec={"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]},
        status={"addresses": addresses},
    )


# ---- spoiling ----


def paths(value: Any, at: Path = ()) -> Iterator[Path]:
    """Every place in a document, the name and namespace of the object excepted."""
    entries: Any = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = enumerate(value)
    for key, inner in entries:
        here = (*at, key)
        if here not in (("metadata", "name"), ("metadata", "namespace"), ("metadata",), ("kind",)):
            yield here
        yield from paths(inner, here)


@st.composite
def spoiled(draw: st.DrawFn, source: st.SearchStrategy[Json], most: int = 3) -> Json:
    """A document with some parts replaced, removed or doubled."""
    result = copy.deepcopy(draw(source))
    for _ in range(draw(st.integers(1, most))):
        found = list(paths(result))
        if found:
            _spoil(result, draw(st.sampled_from(found)), draw)
    return result


def _spoil(root: Any, path: Path, draw: Callable[..., Any]) -> None:
    parent = root
    for key in path[:-1]:
        parent = parent[key]
    key = path[-1]
    what = draw(st.sampled_from(["replace", "replace", "remove", "double"]))
    if what == "replace":
        parent[key] = draw(ANYTHING)
    elif what == "remove":
        del parent[key]
    elif isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
