# SPDX-License-Identifier: Apache-2.0
"""Rules as a kube-proxy writes them, chain by chain, for iptables and for nftables.

Pure: Services in, text for ``iptables-restore --noflush`` or ``nft -f`` out. They forward real
traffic. Names carry digests, as the original's do.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Iterator, NamedTuple, Sequence

MARK = "0x4000/0x4000"
_NEW = "-m conntrack --ctstate NEW"
_PROTOCOLS = ("tcp", "udp")


class Served(NamedTuple):
    """A Service in one family."""

    name: str
    cluster_ip: str
    port: int
    node_port: int
    others: tuple[str, ...]
    """External and load-balancer addresses."""
    backends: tuple[tuple[str, int], ...]


def many(count: int, ipv6: bool) -> list[Served]:
    """Services of a cluster that is not there."""
    vip, pod = ("fd00:10:96::c8:{}", "fd00:10:1::{}:1") if ipv6 else ("10.96.200.{}", "10.1.{}.1")
    return [
        Served(
            f"shop/web-{number}",
            vip.format(number + 1),
            80,
            30000 + number,
            (),
            ((pod.format(number), 8080), (pod.format(number), 9090)),
        )
        for number in range(count)
    ]


def chain(kind: str, *parts: object) -> str:
    """KUBE-SVC-… and the like."""
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return f"KUBE-{kind}-{base64.b32encode(digest).decode()[:16]}"


def iptables(services: Sequence[Served], pods: str, ipv6: bool) -> str:
    """All tables of the mode iptables."""
    lines = ["*mangle", ":KUBE-PROXY-CANARY -", "COMMIT"]
    lines += ["*filter", *_filter(services), "COMMIT", "*nat", *_nat(services, pods, ipv6)]
    return "\n".join((*lines, "COMMIT", ""))


def _comment(text: str) -> str:
    return f'-m comment --comment "{text}"'


def _filter(services: Sequence[Served]) -> Iterator[str]:
    for name in ("PROXY-CANARY", "SERVICES", "EXTERNAL-SERVICES", "FORWARD", "NODEPORTS"):
        yield f":KUBE-{name} -"
    yield ":KUBE-PROXY-FIREWALL -"
    balancer = f"{_NEW} {_comment('kubernetes load balancer firewall')} -j KUBE-PROXY-FIREWALL"
    portals = f"{_NEW} {_comment('kubernetes service portals')} -j KUBE-SERVICES"
    outside = _comment("kubernetes externally-visible service portals")
    checks = _comment("kubernetes health check service ports")
    for builtin in ("INPUT", "OUTPUT", "FORWARD"):
        yield f"-I {builtin} {balancer}"
    for builtin in ("FORWARD", "OUTPUT"):
        yield f"-I {builtin} {portals}"
    for builtin in ("INPUT", "FORWARD"):
        yield f"-I {builtin} {_NEW} {outside} -j KUBE-EXTERNAL-SERVICES"
    yield f"-I INPUT {checks} -j KUBE-NODEPORTS"
    yield f"-I FORWARD {_comment('kubernetes forwarding rules')} -j KUBE-FORWARD"
    yield "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP"
    marked = _comment("kubernetes forwarding rules")
    yield f"-A KUBE-FORWARD {marked} -m mark --mark {MARK} -j ACCEPT"
    known = _comment("kubernetes forwarding conntrack rule")
    yield f"-A KUBE-FORWARD {known} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    for service in services:
        if not service.backends:
            empty = _comment(f"{service.name} has no endpoints")
            match = f"-d {service.cluster_ip} -p tcp -m tcp --dport {service.port}"
            yield f"-A KUBE-SERVICES {match} {empty} -j REJECT"
        else:
            check = _comment(f"{service.name} health check node port")
            yield f"-A KUBE-NODEPORTS {check} -p tcp -m tcp --dport {service.node_port} -j ACCEPT"


def _nat(services: Sequence[Served], pods: str, ipv6: bool) -> Iterator[str]:
    for name in ("PROXY-CANARY", "SERVICES", "NODEPORTS", "POSTROUTING", "MARK-MASQ"):
        yield f":KUBE-{name} -"
    for builtin in ("PREROUTING", "OUTPUT"):
        yield f"-I {builtin} {_comment('kubernetes service portals')} -j KUBE-SERVICES"
    rules = _comment("kubernetes postrouting rules")
    yield f"-I POSTROUTING {rules} -j KUBE-POSTROUTING"
    yield f"-A KUBE-POSTROUTING -m mark ! --mark {MARK} -j RETURN"
    yield "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0"
    snat = _comment("kubernetes service traffic requiring SNAT")
    for protocol in _PROTOCOLS:
        # The proxy's own ports are left out: "two masquerade at once" in docs/differences.md.
        to = "-j MASQUERADE --to-ports 30000-65535 --random-fully"
        yield f"-A KUBE-POSTROUTING -p {protocol} {snat} {to}"
    yield "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000"
    for service in services:
        for protocol in _PROTOCOLS if service.backends else ():
            yield from _service(service, protocol, pods, ipv6)
    last = _comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain")
    yield f"-A KUBE-SERVICES {last} -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"


def _service(service: Served, protocol: str, pods: str, ipv6: bool) -> Iterator[str]:
    name = f"{service.name}:{protocol}"
    svc, ext = chain("SVC", name), chain("EXT", name)
    proto = f"-p {protocol} {_comment(name)} -m {protocol}"
    yield from (f":{svc} -", f":{ext} -")
    for address in service.others:
        way = f"-d {address} {proto} --dport {service.port}"
        yield f"-A KUBE-SERVICES {way} -j {ext}"
    yield f"-A KUBE-SERVICES -d {service.cluster_ip} {proto} --dport {service.port} -j {svc}"
    yield f"-A KUBE-NODEPORTS {proto} --dport {service.node_port} -j {ext}"
    yield f"-A {ext} {_comment(f'masquerade traffic for {name}')} -j KUBE-MARK-MASQ"
    yield f"-A {ext} -j {svc}"
    masq = f"-d {service.cluster_ip} {proto} --dport {service.port} -j KUBE-MARK-MASQ"
    yield f"-A {svc} ! -s {pods} {masq}"
    for left, (address, port) in zip(range(len(service.backends), 0, -1), service.backends):
        sep = chain("SEP", name, address, port)
        to = f"[{address}]:{port}" if ipv6 else f"{address}:{port}"
        yield f":{sep} -"
        yield f"-A {sep} -s {address} {_comment(name)} -j KUBE-MARK-MASQ"
        yield f"-A {sep} {proto} -j DNAT --to-destination {to}"
        chance = f"-m statistic --mode random --probability {1 / left:.10f}" if left > 1 else ""
        yield f"-A {svc} {_comment(f'{name} -> {to}')} {chance} -j {sep}"


def nftables(services: Sequence[Served], pods: str, ipv6: bool) -> str:
    """The table of the mode nftables."""
    ip = "ip6" if ipv6 else "ip"
    lines = [f"table {ip} kube-proxy {{", '\tcomment "rules for kube-proxy"', *_NFT_FRAME]
    elements, ports = [], []
    for service in services:
        for protocol in _PROTOCOLS if service.backends else ():
            name = f"{_nft_name(service.name)}/{protocol}"
            for address in (service.cluster_ip, *service.others):
                elements.append(f"{address} . {protocol} . {service.port} : goto service-{name}")
            ports.append(f"{protocol} . {service.node_port} : goto external-{name}")
            lines += _nft_service(service, protocol, name, pods, ip)
    kind = "ipv6_addr" if ipv6 else "ipv4_addr"
    lines += [
        "\tmap service-ips {",
        f"\t\ttype {kind} . inet_proto . inet_service : verdict",
        f"\t\telements = {{ {', '.join(elements)} }}",
        "\t}",
        "\tmap service-nodeports {",
        "\t\ttype inet_proto . inet_service : verdict",
        f"\t\telements = {{ {', '.join(ports)} }}",
        "\t}",
        "\tchain services {",
        f"\t\t{ip} daddr . meta l4proto . th dport vmap @service-ips",
        "\t\tfib daddr type local meta l4proto . th dport vmap @service-nodeports",
        "\t}",
        "}",
    ]
    return "\n".join(lines) + "\n"


_NFT_FRAME = Path(__file__).with_name("frame.nft").read_text().splitlines()


def _nft_name(name: str) -> str:
    return name.replace("/", "-")


def _nft_service(service: Served, protocol: str, name: str, pods: str, ip: str) -> Iterator[str]:
    count = len(service.backends)
    places = ", ".join(f"{n} : goto endpoint-{name}-{n}" for n in range(count))
    match = f"{ip} daddr {service.cluster_ip} {protocol} dport {service.port}"
    yield from (
        f"\tchain service-{name} {{",
        f"\t\t{match} {ip} saddr != {pods} jump mark-for-masquerade",
        *(
            f"\t\t{ip} daddr {address} {protocol} dport {service.port} jump mark-for-masquerade"
            for address in service.others
        ),
        f"\t\tnumgen random mod {count} vmap {{ {places} }}",
        "\t}",
        f"\tchain external-{name} {{",
        "\t\tjump mark-for-masquerade",
        f"\t\tgoto service-{name}",
        "\t}",
    )
    for number, (address, port) in enumerate(service.backends):
        to = f"[{address}]:{port}" if ip == "ip6" else f"{address}:{port}"
        yield from (
            f"\tchain endpoint-{name}-{number} {{",
            f"\t\t{ip} saddr {address} jump mark-for-masquerade",
            f"\t\tmeta l4proto {protocol} dnat to {to}",
            "\t}",
        )


def foreign(ipv6: bool) -> str:
    """Rules of the kubelet, of CNI plugins and of people, some with names that begin alike."""
    host = "fd00:1::7" if ipv6 else "192.0.2.7"
    pod = "fd00:10:1::9" if ipv6 else "10.1.0.9"
    to = f"[{pod}]:80" if ipv6 else f"{pod}:80"
    text = Path(__file__).with_name("foreign.rules").read_text()
    return text.format(host=host, pod=pod, to=to)
