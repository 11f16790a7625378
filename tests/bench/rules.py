# SPDX-License-Identifier: Apache-2.0
"""The rules that kube-proxy would install, for comparison: its iptables and its nftables shapes.

Written from the documented structure of kube-proxy 1.36: one chain per Service and endpoint, a
linear chain of Services (iptables) or a verdict map (nftables), random choice, hairpin mark,
masquerade. The Service under test stands in the middle of the linear chain: the mean case.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Iterator

ENDPOINTS = 3
FIRST_VIP = IPv4Address("10.96.0.10")
TESTED_VIP = "10.111.0.1"
PORT = 80


def services(count: int, backend: str, backend_port: int) -> Iterator[tuple[str, list[str]]]:
    """(VIP, endpoints) of ``count`` Services; the tested one leads to the real backend."""
    for index in range(count):
        if index == count // 2:
            yield TESTED_VIP, [f"{backend}:{backend_port}"] * ENDPOINTS
        else:
            base = int(IPv4Address("10.200.0.0")) + index * ENDPOINTS
            yield str(FIRST_VIP + index), [
                f"{IPv4Address(base + endpoint)}:8080" for endpoint in range(ENDPOINTS)
            ]


def iptables(count: int, backend: str, backend_port: int) -> str:
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
    for index, (vip, endpoints) in enumerate(services(count, backend, backend_port)):
        service = f"KUBE-SVC-{index:016X}"
        chains.append(f":{service} - [0:0]")
        rules.append(f"-A KUBE-SERVICES -d {vip}/32 -p tcp -m tcp --dport {PORT} -j {service}")
        for number, endpoint in enumerate(endpoints):
            chain = f"KUBE-SEP-{index:012X}{number:04X}"
            chains.append(f":{chain} - [0:0]")
            left = len(endpoints) - number
            chance = (
                f" -m statistic --mode random --probability {1 / left:.10f}" if left > 1 else ""
            )
            address = endpoint.partition(":")[0]
            rules.append(f"-A {service}{chance} -j {chain}")
            rules.append(f"-A {chain} -s {address}/32 -j KUBE-MARK-MASQ")
            rules.append(f"-A {chain} -p tcp -m tcp -j DNAT --to-destination {endpoint}")
    return "\n".join(["*nat", *chains, *rules, "COMMIT", ""])


def nftables(count: int, backend: str, backend_port: int) -> str:
    """Input of ``nft -f`` in the shape of kube-proxy's nftables mode."""
    chains: list[str] = []
    elements: list[str] = []
    for index, (vip, endpoints) in enumerate(services(count, backend, backend_port)):
        verdicts = []
        for number, endpoint in enumerate(endpoints):
            name = f"endpoint-{index}-{number}"
            address, _, port = endpoint.partition(":")
            chains.append(
                f"chain {name} {{ ip saddr {address} jump mark-for-masquerade; "
                f"meta l4proto tcp dnat to {address}:{port}; }}"
            )
            verdicts.append(f"{number} : goto {name}")
        chains.append(
            f"chain service-{index} {{ numgen random mod {len(endpoints)} "
            f"vmap {{ {', '.join(verdicts)} }}; }}"
        )
        elements.append(f"{vip} . tcp . {PORT} : goto service-{index}")
    return "\n".join(
        [
            "table ip kube-proxy {",
            "chain mark-for-masquerade { meta mark set mark or 0x4000; }",
            *chains,
            "map service-ips { type ipv4_addr . inet_proto . inet_service : verdict;",
            f"elements = {{ {', '.join(elements)} }} }}",
            "chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }",
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
