# SPDX-License-Identifier: Apache-2.0
"""Names and addresses of a sandbox, derived from its name, its index and its topology alone.

Nothing here touches the machine. Every other module of the sandbox asks the ``Layout`` what a place
is called and which addresses it has, so that ``down``, ``exec`` and ``status`` need no more than
the first line of the journal to know everything about a running sandbox.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv6Address
from typing import Iterator, Literal, NamedTuple, get_args

Topology = Literal["routed", "bridge", "vxlan"]
TOPOLOGIES: tuple[Topology, ...] = get_args(Topology)

MAX_INDEX = 127
_FIRST_NET = 128  # sandboxes lie in 10.128.0.0/9
BACKEND_PORT = 8080
API_PORT = 6443
SERVICE_CIDRS = ("10.96.0.0/16", "fd00:10:96::/112")
"""The same in every sandbox: two sandboxes with the same VIPs must not disturb each other."""

# eth0 of the nodes carries 1500 bytes; VXLAN over IPv4 takes 50 of them.
MTU = {"routed": 1500, "bridge": 1500, "vxlan": 1450}

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,18}[a-z0-9])?")


class Addresses(NamedTuple):
    """One address of each family, without prefix length."""

    v4: str
    v6: str


@dataclass(frozen=True)
class Pod:
    """A pod: its namespace, its addresses, and whether a backend answers in it."""

    name: str
    node: str
    addresses: Addresses
    app: str

    @property
    def serves(self) -> bool:
        """Whether a backend runs in the pod; the others are there to be clients."""
        return self.app != "shell"


@dataclass(frozen=True)
class Node:
    """A node: its own addresses and the ranges of its pods."""

    name: str
    number: int
    zone: str
    addresses: Addresses
    pod_gateway: Addresses
    pod_cidrs: Addresses
    """With prefix length."""


def check_name(name: str) -> str | None:
    """Say what is wrong with a sandbox name, or None."""
    if _NAME.fullmatch(name):
        return None
    return f"sandbox name {name!r}: use up to 20 lower-case letters, digits and dashes"


@dataclass(frozen=True)
class Layout:
    """All names and addresses of one sandbox.

    Places are: ``net`` (the wire between the nodes, where the API server listens), the nodes, the
    outside ``client``, and the pods.
    """

    name: str
    index: int
    topology: Topology

    def netns(self, place: str) -> str:
        """Name of the network namespace of a place, as `ip netns` shows it."""
        return f"{self.name}-{place}"

    def cgroup(self, place: str) -> str:
        """Control group of a place, relative to the cgroup2 mount; pods lie below their node."""
        top = f"kubeproxy-bpf-{self.name}"
        for pod in self.pods:
            if place == pod.name:
                return f"{top}/{pod.node}/{place}"
        # A node's own processes stand beside its pods, as the kubelet's do: no group that has
        # children holds processes.
        return f"{top}/{place}/host" if place in self.node_names else f"{top}/{place}"

    def node_cgroup(self, node: str) -> str:
        """Group that holds the node's own processes and all its pods."""
        return f"kubeproxy-bpf-{self.name}/{node}"

    @cached_property
    def cgroups(self) -> tuple[str, ...]:
        """Every group, parents before children."""
        found: dict[str, None] = {}
        for place in self.places:
            parts = self.cgroup(place).split("/")
            for depth in range(1, len(parts) + 1):
                found.setdefault("/".join(parts[:depth]))
        return tuple(found)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(self._nodes())

    def _nodes(self) -> Iterator[Node]:
        for number in (1, 2):
            yield Node(
                name=f"node{number}",
                number=number,
                zone=f"zone-{'ab'[number - 1]}",
                addresses=self._address(0, 10 + number),
                pod_gateway=self._address(10 + number, 1),
                pod_cidrs=Addresses(
                    self._address(10 + number, 0).v4 + "/24", self._prefix6(10 + number) + ":/64"
                ),
            )

    @cached_property
    def pods(self) -> tuple[Pod, ...]:
        """Two backends and a shell per node; web-N alternate, so that scaling crosses nodes."""
        places = (
            ("web-1", 1, 11, "web"),
            ("web-2", 2, 11, "web"),
            ("web-3", 1, 12, "web"),
            ("web-4", 2, 12, "web"),
            ("shell-1", 1, 21, "shell"),
            ("shell-2", 2, 21, "shell"),
        )
        return tuple(
            Pod(name, f"node{node}", self._address(10 + node, host), app)
            for name, node, host, app in places
        )

    @property
    def gateway(self) -> Addresses:
        """The wire's own address on the nodes' network; the API server listens on it."""
        return self._address(0, 1)

    @property
    def client_gateway(self) -> Addresses:
        return self._address(1, 1)

    @property
    def client(self) -> Addresses:
        """The outside client: routed to the nodes, and no part of the cluster."""
        return self._address(1, 10)

    @property
    def node_names(self) -> tuple[str, ...]:
        return ("node1", "node2")

    @cached_property
    def places(self) -> tuple[str, ...]:
        return ("net", *self.node_names, "client", *(pod.name for pod in self.pods))

    def addresses(self, place: str) -> Addresses:
        """Addresses under which a place is reached."""
        known = {"net": self.gateway, "client": self.client}
        known.update({node.name: node.addresses for node in self.nodes})
        known.update({pod.name: pod.addresses for pod in self.pods})
        return known[place]

    def pods_of(self, node: str) -> tuple[Pod, ...]:
        return tuple(pod for pod in self.pods if pod.node == node)

    @property
    def pod_network(self) -> Addresses:
        """What holds the pods of all nodes and nothing else, with prefix length."""
        return Addresses(self._address(8, 0).v4 + "/21", self._prefix6(10) + ":/60")

    @property
    def api_server(self) -> str:
        """Address and port of the API server, as in a URL."""
        return f"{self.gateway.v4}:{API_PORT}"

    def _prefix6(self, subnet: int) -> str:
        # The digits of the IPv4 address, read as hexadecimal: easy to recognise beside it.
        return f"fd6b:7062:{_FIRST_NET + self.index}:{subnet}:"

    def _address(self, subnet: int, host: int) -> Addresses:
        v4 = f"10.{_FIRST_NET + self.index}.{subnet}.{host}"
        v6 = str(IPv6Address(f"{self._prefix6(subnet)}:{host}"))
        return Addresses(v4, v6)
