# SPDX-License-Identifier: Apache-2.0
"""Objects of the right shape with values that are meant badly, or not at all.

``hostile`` gives one of any kind, ``crowds`` several, among them Services that claim what others
have and slices that name the pods of others. All live in a namespace of their own and are younger
than the good ones.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.fix_objects import NODE
from tests.property.api_objects import (
    ADDRESSES,
    CIDR,
    NAMES,
    NO_ADDRESSES,
    NODE_IP,
    PROTOCOLS,
    SLICE,
    TEXTS,
    UNFIT_ADDRESSES,
    Json,
    choice,
    document,
    few,
    integers,
    maybe,
    metadata,
)

HOSTILE = "hostile"
HOSTILE_NAMES = st.sampled_from(["bad-0", "bad-1", "bad-2"])


HOSTILE_PORTS = few(
    maybe(
        name=choice(*NAMES),
        protocol=choice("TCP", "UDP", *PROTOCOLS),
        port=integers(80, 81, 30000),
        nodePort=integers(30000, 30001, 30080),
    ),
    4,
)
# None of the good ones' cluster IPs: a cluster gives no address twice.
CLUSTER_IPS = choice("10.96.9.1", "10.96.9.2", "fd00:96::9:1", *UNFIT_ADDRESSES, *NO_ADDRESSES)
# Those of the good ones are in it.
VICTIMS = choice("10.96.0.10", "10.96.0.10", "203.0.113.10", "198.51.100.10", "fd00:96::10")
CLAIMED = st.one_of(ADDRESSES, VICTIMS, choice("10.244.0.1", NODE_IP))
HOSTILE_SERVICES = maybe(
    type=choice("ClusterIP", "NodePort", "LoadBalancer", "ExternalName", "", "Headless"),
    clusterIP=CLUSTER_IPS,
    clusterIPs=few(CLUSTER_IPS),
    ipFamilies=few(choice("IPv4", "IPv6", "ipv4", "", "IPX")),
    ports=HOSTILE_PORTS,
    externalIPs=few(CLAIMED),
    loadBalancerSourceRanges=few(choice("0.0.0.0/0", "10.0.0.0/33", "::/0", "x", "10.0.0.0/025")),
    internalTrafficPolicy=choice("Cluster", "Local", "Nowhere", ""),
    externalTrafficPolicy=choice("Cluster", "Local", "Nowhere"),
    sessionAffinity=choice("None", "ClientIP", "Cookie"),
    sessionAffinityConfig=maybe(clientIP=maybe(timeoutSeconds=integers(1, 86400, 86401))),
    healthCheckNodePort=integers(32000),
)
INGRESS = maybe(ip=CLAIMED, ipMode=choice("VIP", "Proxy", "x"), hostname=TEXTS)
ENDPOINT = maybe(
    addresses=few(st.one_of(CLAIMED, choice("10.244.0.1", "10.244.0.2", "fd00:244:0::1")), 2),
    conditions=maybe(ready=st.booleans(), serving=st.booleans(), terminating=st.booleans()),
    nodeName=choice(NODE, "node-b", "", "\ud800"),
    hints=maybe(forZones=few(maybe(name=choice("east", "")))),
)
LABELS = st.dictionaries(
    choice("kubernetes.io/service-name", "service.kubernetes.io/service-proxy-name", "a"),
    choice("bad-0", "bad-1", "", "good-0"),
    max_size=2,
)
ANNOTATIONS = st.dictionaries(
    choice("kubeproxy-bpf.io/algorithm", "endpoints.kubernetes.io/last-change-trigger-time", "a"),
    st.one_of(choice("maglev", "9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00+23:59"), TEXTS),
    max_size=2,
)
HOSTILE_META = st.builds(
    lambda name, labels, notes: metadata(name, HOSTILE, "2025", labels=labels, annotations=notes),
    HOSTILE_NAMES,
    LABELS,
    ANNOTATIONS,
)


def _hostile_service(meta: Json, spec: Json, ingress: list[Json]) -> Json:
    status = {"loadBalancer": {"ingress": ingress}}
    # Without one nothing else of a Service is looked at.
    return document("Service", meta, spec={"clusterIP": "10.96.9.1"} | spec, status=status)


def _hostile_slice(meta: Json, body: Json) -> Json:
    meta["labels"] = {"kubernetes.io/service-name": "bad-0"} | meta["labels"]
    return document(SLICE, meta, **body)


HOSTILE_PODS = maybe(
    nodeName=choice(NODE, NODE, "node-b"),
    hostNetwork=st.booleans(),
    containers=few(
        maybe(
            ports=few(
                maybe(
                    hostIP=CLAIMED,
                    hostPort=integers(8000, 30000),
                    containerPort=integers(80),
                    protocol=choice("TCP", *PROTOCOLS),
                )
            )
        ),
        2,
    ),
)

services = st.builds(_hostile_service, HOSTILE_META, HOSTILE_SERVICES, few(INGRESS))


def mostly(good: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 9).flatmap(lambda number: odd if number == 9 else good)


@st.composite
def valid_or_not(draw: st.DrawFn) -> Json:
    """A Service that has something to serve as a rule, and something odd in one of its fields."""
    port = st.fixed_dictionaries(
        {
            "name": choice("http", "", "dns", "x"),
            "protocol": mostly(choice("TCP", "UDP"), choice(*PROTOCOLS)),
            "port": mostly(choice(80, 10250, 65535), integers(0, 65536)),
        },
        optional={"nodePort": mostly(choice(30000, 30001), integers(0, 65536))},
    )
    external = st.one_of(choice(NODE_IP, "10.9.0.1"), ADDRESSES)
    spec = {
        "type": draw(mostly(choice("ClusterIP", "LoadBalancer"), choice("ExternalName", "x"))),
        "clusterIP": draw(mostly(choice("10.96.9.1", "fd00:96::9:1"), CLUSTER_IPS)),
        "ports": draw(st.lists(port, min_size=1, max_size=3)),
        "externalIPs": draw(st.lists(external, min_size=draw(choice(0, 1)), max_size=3)),
    }
    if draw(st.booleans()):
        spec["ipFamilies"] = draw(mostly(choice(["IPv4"], ["IPv6", "IPv4"]), choice(["x"], [""])))
        ips = draw(mostly(st.just(["fd00:96::9:1", "10.96.9.2"]), few(CLUSTER_IPS)))
        spec["clusterIPs"] = ips[-len(spec["ipFamilies"]) :]
    labels = draw(mostly(st.just({}), LABELS))
    ingress = draw(few(INGRESS, 2))
    return _hostile_service(metadata("bad-0", HOSTILE, "2025", labels=labels), spec, ingress)


slices = st.builds(
    _hostile_slice,
    HOSTILE_META,
    maybe(
        addressType=choice("IPv4", "IPv6", "IPv4", "FQDN", "IPX", ""),
        ports=few(maybe(name=choice(*NAMES), protocol=choice(*PROTOCOLS), port=integers(8080))),
        endpoints=few(ENDPOINT, 4),
    ),
)
pods = st.builds(
    lambda meta, spec, ips: document(
        "Pod", meta, spec=spec, status={"podIPs": ips, "phase": "Running"}
    ),
    HOSTILE_META,
    HOSTILE_PODS,
    few(maybe(ip=CLAIMED)),
)
cidrs = st.builds(
    lambda name, texts: document(CIDR, {"name": name}, spec={"cidrs": texts}),
    HOSTILE_NAMES,
    few(choice("10.96.0.0/16", "0.0.0.0/0", "fd00::/200", "x", "", "10.0.0.0/8/8")),
)
hostile = st.one_of(services, services, slices, slices, pods, cidrs)


@st.composite
def rivals(draw: st.DrawFn) -> list[Json]:
    """A Service in order, and a slice that names the pods of others as its endpoints."""
    protocol = draw(choice("TCP", "UDP"))
    name = protocol.lower()
    spec = draw(maybe(externalIPs=few(CLAIMED), type=choice("NodePort", "LoadBalancer")))
    port = {"name": name, "protocol": protocol, "port": draw(choice(80, 81)), "nodePort": 30000}
    spec |= {"ipFamilies": ["IPv4"], "clusterIPs": ["10.96.9.1"], "ports": [port]}
    endpoints = draw(few(ENDPOINT, 2)) + [
        {"addresses": [f"10.244.{number}.1"], "nodeName": draw(choice(NODE, "node-b"))}
        for number in range(draw(st.integers(1, 3)))
    ]
    ports = [{"name": name, "protocol": protocol, "port": 8080}]
    body = {"addressType": "IPv4", "ports": ports, "endpoints": endpoints}
    return [
        _hostile_service(metadata("bad-0", HOSTILE, "2025"), spec, draw(few(INGRESS))),
        _hostile_slice(metadata("bad-0", HOSTILE, "2025", labels={}), body),
    ]


@st.composite
def rival_pods(draw: st.DrawFn) -> list[Json]:
    """Pods with host ports on addresses of others, some of which others have."""
    ports = [
        {"hostIP": ip, "hostPort": draw(choice(80, 81, 9999, 30000)), "containerPort": 80}
        for ip in draw(st.lists(st.one_of(VICTIMS, VICTIMS, CLAIMED), min_size=1, max_size=3))
    ]
    spec = {"nodeName": NODE, "containers": [{"ports": ports}]}
    status = {"podIPs": [{"ip": "10.244.9.9"}, {"ip": "fd00:244:9::9"}], "phase": "Running"}
    meta = metadata("bad-0", HOSTILE, "2025", labels={})
    return [document("Pod", meta, spec=spec, status=status)]


crowds = st.one_of(st.lists(hostile, min_size=1, max_size=4), rivals())
