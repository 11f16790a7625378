# SPDX-License-Identifier: Apache-2.0
"""Some two hundred objects that no cluster should have: one odd value each, in one field.

Each has a name of its own, so that the log can be asked for it. ``Nasty.bad`` tells whether
something is wrong with it at all: the proxy has to name those, and only those.
"""

from __future__ import annotations

from typing import Any, Iterator, NamedTuple

NAMESPACE = "nasty"
WRONG_TYPES: list[Any] = ["http", 80.5, [80], {"a": 1}, True]
NUMBERS = [-1, 65536, 2**31, 2**32, 2**63, 10**30, -(10**18)]
SPECIAL = ["127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.1.1", "224.0.0.251", "255.255.255.255"]
SPECIAL6 = ["::1", "::", "fe80::1", "ff02::1"]
NO_ADDRESSES = ["nonsense", "10.0.0", "10.0.0.256", "10.0.0.1/32", "１0.0.0.1", "fe80::1%eth0", " "]
LONG = "x" * 200_000
PORT = {"name": "http", "protocol": "TCP", "port": 80}


class Nasty(NamedTuple):
    manifest: dict[str, Any]
    bad: bool = True

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])


def nasty(vip: str, pods: list[str], node: str) -> list[Nasty]:
    """All of them, for a cluster with a good Service at ``vip`` in front of ``pods``."""
    found = []
    for number, (bad, manifest) in enumerate([*_services(vip, node), *_slices(pods)]):
        manifest["metadata"]["name"] = f"n-{number:04}"
        found.append(Nasty(manifest, bad))
    return found


def _service(**spec: Any) -> dict[str, Any]:
    meta = {"namespace": NAMESPACE}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {"ports": [PORT], **spec},
    }


def _annotated(manifest: dict[str, Any], algorithm: str) -> dict[str, Any]:
    manifest["metadata"]["annotations"] = {"kubeproxy-bpf.io/algorithm": algorithm}
    return manifest


def _slice(**body: Any) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": body.pop("service", "n-0000")}
    meta = {"namespace": NAMESPACE, "labels": labels}
    base = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta}
    return {**base, "addressType": "IPv4", "ports": [PORT], "endpoints": [], **body}


def _services(vip: str, node: str) -> Iterator[tuple[bool, dict[str, Any]]]:
    yield False, _service()
    for manifest in (*_typed(), *_numbered(), *_addressed(vip, node), *_large(), *_worded()):
        yield True, manifest


def _typed() -> Iterator[dict[str, Any]]:
    for value in WRONG_TYPES:
        yield _service(externalIPs=value)
        yield _service(loadBalancerSourceRanges=value)
        yield _service(ports=[{**PORT, "port": value}])
        yield _service(healthCheckNodePort=value)
        yield _service(externalTrafficPolicy=value if value != "http" else 7)


def _numbered() -> Iterator[dict[str, Any]]:
    for value in NUMBERS:
        yield _service(ports=[{**PORT, "port": value}])
        yield _service(ports=[PORT, {**PORT, "name": "b", "nodePort": value}], type="NodePort")
        affinity = {"clientIP": {"timeoutSeconds": value + 2**17 if value > 0 else value}}
        yield _service(sessionAffinity="ClientIP", sessionAffinityConfig=affinity)
        local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
        yield _service(healthCheckNodePort=value, **local)


def _addressed(vip: str, node: str) -> Iterator[dict[str, Any]]:
    for text in [*SPECIAL, *SPECIAL6, *NO_ADDRESSES, LONG]:
        yield _service(externalIPs=["198.51.100.77", text])
    for text in [*SPECIAL, *SPECIAL6, *NO_ADDRESSES]:
        yield _service(externalIPs=[text] * 500)
    for text in [*SPECIAL, "nonsense", "10.0.0.256"]:
        for kind in ("ClusterIP", "NodePort", "LoadBalancer"):
            yield _service(clusterIP=text, clusterIPs=[text], ipFamilies=["IPv4"], type=kind)
    for prefix in ["x", "10.0.0.0/33", "10.0.0.0", "/8", LONG]:
        yield _service(type="LoadBalancer", loadBalancerSourceRanges=[prefix])
    yield _service(externalIPs=[vip])  # the good one's, which is older
    yield _service(ports=[{**PORT, "port": 10250}], externalIPs=[node])


def _large() -> Iterator[dict[str, Any]]:
    yield _service(ports=[{**PORT, "port": 70_000 + n, "name": f"p{n}"} for n in range(5_000)])
    ports = [{**PORT, "port": n, "name": f"p{n}"} for n in range(1, 3_001)]
    yield _service(ports=ports, externalIPs=[f"10.77.{n >> 8}.{n & 255}" for n in range(300)])


def _worded() -> Iterator[dict[str, Any]]:
    for text in ["", "maglev ", LONG, "\x1b[2J", "ＭＡＧＬＥＶ"]:
        yield _annotated(_service(), text)
    for protocol in ["tcp", "ICMP", "TCP\0", LONG, "\x1b[31m"]:
        yield _service(ports=[PORT, {**PORT, "name": "b", "protocol": protocol}])
    yield _service(ports=[PORT, PORT])


def _slices(pods: list[str]) -> Iterator[tuple[bool, dict[str, Any]]]:
    for manifest in (*_wrong_slices(), *_slices_of_nobody()):
        yield True, manifest
    for pod in pods:  # what others have: nothing is wrong with it
        yield False, _slice(endpoints=[{"addresses": [pod], "nodeName": "elsewhere"}])
        yield False, _slice(endpoints=[{"addresses": [pod]}] * 50)


def _wrong_slices() -> Iterator[dict[str, Any]]:
    for value in WRONG_TYPES:
        yield _slice(endpoints=[{"addresses": value if value != [80] else [[80]]}])
        yield _slice(endpoints=[{"addresses": ["10.0.0.1"], "nodeName": [value]}])
        ready = value if value is not True else "yes"
        yield _slice(endpoints=[{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}])
        yield _slice(ports=[{**PORT, "port": value}])
    for number in NUMBERS:
        yield _slice(ports=[{**PORT, "port": number}])
    for kind in ["IPX", "", "ipv4"]:
        yield _slice(addressType=kind, endpoints=[{"addresses": ["10.0.0.1"]}])
    yield _slice(service="")


def _slices_of_nobody() -> Iterator[dict[str, Any]]:
    """Endpoints with addresses that are none, or nobody's."""
    for text in [*SPECIAL, *SPECIAL6, *NO_ADDRESSES, "fd00::7", LONG]:
        yield _slice(endpoints=[{"addresses": [text]}])
    for text in [*SPECIAL, *NO_ADDRESSES]:
        yield _slice(endpoints=[{"addresses": [text]}] * 900)
    for text in [*SPECIAL6, *NO_ADDRESSES, "10.0.0.1", "::ffff:10.0.0.1", LONG]:
        yield _slice(addressType="IPv6", endpoints=[{"addresses": [text]}])
