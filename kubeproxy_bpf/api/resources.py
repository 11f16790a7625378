# SPDX-License-Identifier: Apache-2.0
"""The five resources that the proxy follows, with the selectors of kube-proxy 1.36.

``wanted`` repeats each selector on the decoded object, for API servers that ignore selectors; an
object that it refuses counts as absent. Called by ``api.source``; read by the reflector.
"""

from __future__ import annotations

from typing import Callable, NamedTuple

from kubeproxy_bpf.api.decode import ApiObject, Kind
from kubeproxy_bpf.api.objects import EndpointSlice, Node, Pod, Service, ServiceCIDR
from kubeproxy_bpf.api.wire import HEADLESS, PROXY_NAME


class Resource(NamedTuple):
    kind: Kind
    path: str
    selectors: tuple[tuple[str, str], ...]
    wanted: Callable[[ApiObject], bool]
    optional: bool = False
    """The proxy works without it, so being forbidden to read it is no failure."""
    refusals: frozenset[int] = frozenset({403})
    """HTTP status codes by which a server says that it will not show an optional resource."""
    without: str = ""
    """What does not work without an optional resource, for the log."""


def services() -> Resource:
    def wanted(candidate: ApiObject) -> bool:
        return (
            isinstance(candidate, Service)
            and candidate.cluster_ip != "None"
            and candidate.proxy_name is None
        )

    selectors = (("fieldSelector", "spec.clusterIP!=None"), ("labelSelector", f"!{PROXY_NAME}"))
    return Resource(Kind.SERVICE, "/api/v1/services", selectors, wanted)


def endpoint_slices() -> Resource:
    def wanted(candidate: ApiObject) -> bool:
        return isinstance(candidate, EndpointSlice) and not candidate.headless

    path = "/apis/discovery.k8s.io/v1/endpointslices"
    return Resource(Kind.ENDPOINT_SLICE, path, (("labelSelector", f"!{HEADLESS}"),), wanted)


def node(name: str) -> Resource:
    def wanted(candidate: ApiObject) -> bool:
        return isinstance(candidate, Node) and candidate.name == name

    selectors = (("fieldSelector", f"metadata.name={name}"),)
    return Resource(Kind.NODE, "/api/v1/nodes", selectors, wanted)


def pods_of(node_name: str) -> Resource:
    """Pods of this node. kube-proxy's own role may not list Pods, hence optional."""

    def wanted(candidate: ApiObject) -> bool:
        return isinstance(candidate, Pod) and candidate.node == node_name

    selectors = (("fieldSelector", f"spec.nodeName={node_name}"),)
    without = "host ports of pods are not served; manifests/hostports has the rule"
    return Resource(Kind.POD, "/api/v1/pods", selectors, wanted, True, without=without)


def service_cidrs() -> Resource:
    """The ranges of cluster IPs. Kubernetes before 1.33 serves no such resource, and a role may
    lack it: then unused addresses of Services are not told apart from any others [H2]."""

    def wanted(candidate: ApiObject) -> bool:
        return isinstance(candidate, ServiceCIDR)

    path = "/apis/networking.k8s.io/v1/servicecidrs"
    refusals = frozenset({403, 404})
    without = "packets to addresses that no Service has are left alone"
    return Resource(Kind.SERVICE_CIDR, path, (), wanted, True, refusals, without)
