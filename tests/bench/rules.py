# SPDX-License-Identifier: Apache-2.0
"""The rules that kube-proxy would install, for comparison: its iptables and its nftables shapes.

Written from the documented structure of kube-proxy 1.36: one chain per Service and endpoint, a
linear chain of Services (iptables) or a verdict map (nftables), random choice, hairpin mark,
masquerade; with node ports also the way into them and what is asked of forwarded packets. The
Service under test stands in the middle of the linear chain: the mean case.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Iterator, NamedTuple

ENDPOINTS = 3
FIRST_VIP = IPv4Address("10.96.0.10")
TESTED_VIP = "10.111.0.1"
POD_VIP = "10.111.0.2"
PORT = 80
FIRST_NODE_PORT = 30000


class Shape(NamedTuple):
    """How many Services there are, and where the tested one leads."""

    count: int
    endpoints: tuple[str, ...]
    """Of the tested Service, "address:port"."""
    protocol: str = "tcp"
    node: str = ""
    """The address whose node ports are served; none: cluster IPs only."""
    pod: str = ""
    """Endpoint of a second tested Service, a pod of the node."""

    @property
    def node_port(self) -> int:
        """Of the tested Service."""
        return FIRST_NODE_PORT + self.count // 2

    @property
    def pod_node_port(self) -> int:
        """Of the second tested Service."""
        return FIRST_NODE_PORT + self.count


class Service(NamedTuple):
    vip: str
    port: int
    node_port: int
    endpoints: tuple[str, ...]
    local: bool


def services(shape: Shape) -> Iterator[Service]:
    """All Services of a shape; the tested ones lead to real endpoints."""
    for index in range(shape.count):
        node_port = FIRST_NODE_PORT + index
        if index == shape.count // 2:
            yield Service(TESTED_VIP, PORT, node_port, shape.endpoints, False)
            if shape.pod:
                yield Service(POD_VIP, PORT, shape.pod_node_port, (shape.pod,) * ENDPOINTS, True)
            continue
        base = IPv4Address("10.200.0.0") + index * ENDPOINTS
        endpoints = tuple(f"{base + endpoint}:8080" for endpoint in range(ENDPOINTS))
        yield Service(str(FIRST_VIP + index), PORT, node_port, endpoints, False)


def iptables(shape: Shape) -> str:
    """Input of ``iptables-restore`` in the shape of kube-proxy's iptables mode."""
    chains = [":KUBE-SERVICES - [0:0]", ":KUBE-POSTROUTING - [0:0]", ":KUBE-MARK-MASQ - [0:0]"]
    rules = [
        "-A PREROUTING -j KUBE-SERVICES",
        "-A OUTPUT -j KUBE-SERVICES",
        "-A POSTROUTING -j KUBE-POSTROUTING",
        "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
        "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
    ]
    match = f"-p {shape.protocol} -m {shape.protocol}"
    if shape.node:
        chains.append(":KUBE-NODEPORTS - [0:0]")
    for index, service in enumerate(services(shape)):
        chain = f"KUBE-SVC-{index:016X}"
        chains.append(f":{chain} - [0:0]")
        rules.append(f"-A KUBE-SERVICES -d {service.vip}/32 {match} --dport {PORT} -j {chain}")
        if shape.node:
            external = f"KUBE-EXT-{index:016X}"
            chains.append(f":{external} - [0:0]")
            rules.append(f"-A KUBE-NODEPORTS {match} --dport {service.node_port} -j {external}")
            rules.append(f"-A {external} -j KUBE-MARK-MASQ")
            rules.append(f"-A {external} -j {chain}")
        _iptables_endpoints(index, chain, service.endpoints, match, chains, rules)
    tables = ["*nat", *chains, *rules]
    if shape.node:
        tables.append("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")
        tables += ["COMMIT", *_IPTABLES_FILTER]
    return "\n".join([*tables, "COMMIT", ""])


_IPTABLES_FILTER = [
    "*filter",
    ":KUBE-FORWARD - [0:0]",
    ":KUBE-SERVICES - [0:0]",
    ":KUBE-EXTERNAL-SERVICES - [0:0]",
    ":KUBE-PROXY-FIREWALL - [0:0]",
    "-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL",
    "-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES",
    "-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL",
    "-A FORWARD -j KUBE-FORWARD",
    "-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES",
    "-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES",
    "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
    "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
    "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
]


def _iptables_endpoints(
    index: int,
    service: str,
    endpoints: tuple[str, ...],
    match: str,
    chains: list[str],
    rules: list[str],
) -> None:
    for number, endpoint in enumerate(endpoints):
        chain = f"KUBE-SEP-{index:012X}{number:04X}"
        chains.append(f":{chain} - [0:0]")
        left = len(endpoints) - number
        chance = f" -m statistic --mode random --probability {1 / left:.10f}" if left > 1 else ""
        address = endpoint.partition(":")[0]
        rules.append(f"-A {service}{chance} -j {chain}")
        rules.append(f"-A {chain} -s {address}/32 -j KUBE-MARK-MASQ")
        rules.append(f"-A {chain} {match} -j DNAT --to-destination {endpoint}")


def nftables(shape: Shape) -> str:
    """Input of ``nft -f`` in the shape of kube-proxy's nftables mode."""
    chains: list[str] = []
    addresses: list[str] = []
    ports: list[str] = []
    for index, service in enumerate(services(shape)):
        verdicts = []
        for number, endpoint in enumerate(service.endpoints):
            name = f"endpoint-{index}-{number}"
            address, _, port = endpoint.partition(":")
            chains.append(
                f"chain {name} {{ ip saddr {address} jump mark-for-masquerade; "
                f"meta l4proto {shape.protocol} dnat to {address}:{port}; }}"
            )
            verdicts.append(f"{number} : goto {name}")
        chains.append(
            f"chain service-{index} {{ numgen random mod {len(service.endpoints)} "
            f"vmap {{ {', '.join(verdicts)} }}; }}"
        )
        addresses.append(f"{service.vip} . {shape.protocol} . {PORT} : goto service-{index}")
        if shape.node:
            chains.append(
                f"chain external-{index} {{ jump mark-for-masquerade; goto service-{index}; }}"
            )
            ports.append(f"{shape.protocol} . {service.node_port} : goto external-{index}")
    return "\n".join(
        [
            "table ip kube-proxy {",
            "chain mark-for-masquerade { meta mark set mark or 0x4000; }",
            *chains,
            "map service-ips { type ipv4_addr . inet_proto . inet_service : verdict;",
            f"elements = {{ {', '.join(addresses)} }} }}",
            *_nftables_services(shape.node, ports),
            "chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }",
            "chain nat-output { type nat hook output priority -100; jump services; }",
            "chain masquerading { mark and 0x4000 == 0 return; mark set mark xor 0x4000; "
            "masquerade fully-random; }",
            "chain nat-postrouting { type nat hook postrouting priority srcnat; "
            "jump masquerading; }",
            "}",
            "",
        ]
    )


def _nftables_services(node: str, ports: list[str]) -> list[str]:
    by_address = "ip daddr . meta l4proto . th dport vmap @service-ips;"
    if not node:
        return [f"chain services {{ {by_address} }}"]
    checks = "{ ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }"
    return [
        "map service-nodeports { type inet_proto . inet_service : verdict;",
        f"elements = {{ {', '.join(ports)} }} }}",
        f"set nodeport-ips {{ type ipv4_addr; elements = {{ {node} }} }}",
        "set cluster-ips { type ipv4_addr; }",
        "map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }",
        "map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }",
        "map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }",
        f"chain services {{ {by_address} "
        "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports; }",
        "chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }",
        "chain service-endpoints-check { "
        "ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }",
        "chain cluster-ips-check { ip daddr @cluster-ips reject; }",
        "chain filter-prerouting { type filter hook prerouting priority -110; "
        "ct state new jump firewall-check; }",
        "chain filter-forward { type filter hook forward priority -110; " + checks[2:],
        "chain filter-input { type filter hook input priority -110; "
        "ip daddr @nodeport-ips ct state new meta l4proto . th dport vmap @no-endpoint-nodeports; "
        "ct state new jump service-endpoints-check; }",
        "chain filter-output { type filter hook output priority -110; "
        "ct state new jump firewall-check; }",
    ]
