# SPDX-License-Identifier: Apache-2.0
"""Makes the world of the table of flows real: its addresses, its objects, and who answers there.

The table's own addresses are added to the pods, nodes and wire of a routed sandbox, so no row needs
another address than the one it names. ``shell-1`` and ``shell-2`` carry the endpoints of node-a and
node-b, ``web-3`` is the pod that dials, and the wire takes whatever leaves the cluster. In each of
these places a ``responder`` listens at every port that a row names, so a connection that is not
translated ends somewhere too, and says where.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Iterator

import yaml

from kubeproxy_bpf.sandbox.cluster import Sandbox
from kubeproxy_bpf.sandbox.inventory import Manifest
from tests.e2e.flows.places import ip_batch, responder
from tests.flows.table import FLOWS, WORLD, Client, Flow, Outcome

NODE, OTHER_NODE = "node1", "node2"
PLACES = {
    Client.POD: "web-3",
    Client.DETECTED_POD: "web-3",
    Client.HOST: NODE,
    Client.HOST_LOOPBACK: NODE,
}
NODE_PORT_ADDRESSES = "127.0.0.0/8,::1/128,192.168.0.0/24,fd00:192:168::/64"

_RESPONDERS = ("net", NODE, OTHER_NODE, "shell-1", "shell-2", "web-3")
_NODES = {"node-a": NODE, "node-b": OTHER_NODE}
_VERSIONS = {"EndpointSlice": "discovery.k8s.io/v1"}
_ON_DEVICE = ("10.96.0.30", "198.51.100.2")
_BEYOND = ("10.96.0.0/16", "203.0.113.0/24", "198.51.100.0/24")
_BACKEND_8080 = "8080"


def proxy_command(detector: bool) -> str:
    """The proxy with the world's node port addresses, with or without a way to tell local pods.

    The sandbox appends its own flags; what counts is the last one, so a shell puts ours behind.
    """
    program = Path(sys.executable).with_name("kube-proxy")
    flags = [f"--nodeport-addresses={NODE_PORT_ADDRESSES}"]
    flags += [] if detector else ["--cluster-cidr="]
    return f"sh -c 'exec {program} \"$@\" {' '.join(flags)}' kube-proxy"


@contextmanager
def made_real(sandbox: Sandbox) -> Iterator[None]:
    """Add the world to a sandbox whose proxies do not run yet."""
    _check_addresses()
    for place, lines in _wiring(sandbox).items():
        ip_batch(sandbox, place, lines)
    with ExitStack() as stack:
        for place in _RESPONDERS:
            stack.enter_context(responder(sandbox, place, _ports(place)))
        for manifest in manifests():
            sandbox.api.apply(manifest)
        yield


def manifests() -> Iterator[Manifest]:
    """The objects of the world, on the sandbox's nodes."""
    for document in yaml.safe_load_all(WORLD.read_text()):
        if "kind" not in document:
            continue
        document["apiVersion"] = _VERSIONS.get(document["kind"], "v1")
        if document["kind"] == "Node":
            document["metadata"]["name"] = _NODES[document["metadata"]["name"]]
        for endpoint in document.get("endpoints", ()):
            endpoint["nodeName"] = _NODES[endpoint["nodeName"]]
        if document["kind"] == "Pod":
            document["spec"]["nodeName"] = _NODES[document["spec"]["nodeName"]]
        yield document


def _check_addresses() -> None:
    """The node's addresses are written down twice, here as routes; they must be the same."""
    header = next(iter(yaml.safe_load_all(WORLD.read_text())))
    ours = {"127.0.0.1", "::1", "192.168.0.1", "192.168.1.1", "fd00:192:168::1", *_ON_DEVICE}
    assert set(header["addresses"]["local"]) == ours


def _wiring(sandbox: Sandbox) -> dict[str, list[str]]:
    """Lines for ``ip -batch``, by place."""
    first, second = (sandbox.layout.addresses(node) for node in (NODE, OTHER_NODE))
    node = ["addr add 192.168.0.1/32 dev eth0", "addr add 192.168.1.1/32 dev eth0"]
    node += ["addr add fd00:192:168::1/128 dev eth0 nodad"]
    node += [f"addr add {address}/32 dev lo" for address in _ON_DEVICE]
    # What a socket bound to 127.0.0.1 dials stays on the node; no device carries the address.
    node += ["route add local 10.96.0.1/32 dev lo", f"route add 192.168.0.2 via {second.v4}"]
    node += _pod_routes("shell-1", 1, first)
    node += [f"route add 10.244.2.0/24 via {second.v4}"]
    node += [f"route add fd00:10:244:2::/64 via {second.v6}"]
    other = ["addr add 192.168.0.2/32 dev eth0", f"route add 192.168.0.1 via {first.v4}"]
    other += _pod_routes("shell-2", 2, second)
    other += [f"route add 10.244.1.0/24 via {first.v4}"]
    other += [f"route add fd00:10:244:1::/64 via {first.v6}"]
    other += [f"route add fd00:192:168::1 via {first.v6}"]
    pods = {
        f"shell-{number}": [f"addr add {address} dev eth0 nodad" for address in addresses]
        for number, addresses in ((1, _pod_addresses(1)), (2, _pod_addresses(2)))
    }
    wire = [f"route add local {cidr} dev lo" for cidr in _BEYOND]
    return {NODE: node, OTHER_NODE: other, "net": wire, **pods}


def _pod_addresses(number: int) -> list[str]:
    v4 = [f"10.244.{number}.{host}/32" for host in (10, 11, 21, 22, 23, 24)]
    return v4 + [f"fd00:10:244:{number}::{host}/128" for host in ("a", "15")]


def _pod_routes(pod: str, number: int, source: tuple[str, str]) -> list[str]:
    return [
        f"route add 10.244.{number}.0/24 dev v-{pod} src {source[0]}",
        f"route add fd00:10:244:{number}::/64 dev v-{pod} src {source[1]}",
    ]


def _ports(place: str) -> list[str]:
    """Every port to which a row may lead: those of backends, and those that are left alone."""
    ports = {
        f"{flow.protocol}:{flow.port}" for flow in FLOWS if flow.expected is Outcome.LEFT_ALONE
    }
    for flow in FLOWS:
        ports |= _backend_ports(flow)
    # The sandbox's own backend holds its port in the pod that dials.
    busy = {f"TCP:{_BACKEND_8080}", f"UDP:{_BACKEND_8080}"} if place.startswith("web") else set()
    return sorted(ports - busy)


def _backend_ports(flow: Flow) -> set[str]:
    if isinstance(flow.expected, Outcome) or flow.protocol == "SCTP":
        return set()
    return {
        f"{flow.protocol}:{text.replace(' ', ':').rpartition(':')[2]}" for text in flow.expected
    }
