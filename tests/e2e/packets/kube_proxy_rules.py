# SPDX-License-Identifier: Apache-2.0
"""The Services of the table as the rules that kube-proxy writes in its iptables mode.

They show that the table is right without our programs, and they carry the connections that a
takeover must not lose. Chains are named for the Service instead of a hash; a port of node 1 that a
pod wants is mapped as the portmap plugin does.
"""

from __future__ import annotations

from typing import Iterator

from kubeproxy_bpf.sandbox.layout import BACKEND_PORT, Layout, Node
from tests.e2e.packets.netfilter import inside
from tests.e2e.packets.objects import HOST_PORT, PORT, addresses_of
from tests.e2e.packets.table import SERVICES, Service

_MARK = "0x4000/0x4000"
_PROTOCOLS = ("tcp", "udp")


def load(layout: Layout, node: Node, cluster_ips: dict[str, list[str]]) -> None:
    """Write the rules of both families, beside those that are there."""
    for family, program in enumerate(("iptables-restore", "ip6tables-restore")):
        ips = {name: given[family] for name, given in cluster_ips.items()}
        text = "\n".join(_Rules(layout, node, family, ips).lines()) + "\n"
        inside(layout, node.name, [program, "--noflush"], text)


def remove(layout: Layout, node: Node) -> None:
    """Take all of it away, as ``kube-proxy --cleanup`` would."""
    for program in ("iptables", "ip6tables"):
        for table, chain in (
            ("filter", "FORWARD"),
            ("filter", "OUTPUT"),
            ("filter", "INPUT"),
            ("nat", "PREROUTING"),
            ("nat", "OUTPUT"),
            ("nat", "POSTROUTING"),
        ):
            inside(layout, node.name, [program, "-t", table, "-D", chain, "-j", f"KUBE-{chain}"])


class _Rules:
    """The rules of one node and family."""

    def __init__(self, layout: Layout, node: Node, family: int, ips: dict[str, str]) -> None:
        self.layout, self.node, self.family, self.ips = layout, node, family, ips
        self.pods = layout.pod_network[family]

    def lines(self) -> Iterator[str]:
        yield "*filter"
        for chain in ("FORWARD", "OUTPUT", "INPUT"):
            yield f":KUBE-{chain} -"
            yield f"-I {chain} -j KUBE-{chain}"
        yield f"-A KUBE-FORWARD -m mark --mark {_MARK} -j ACCEPT"
        yield "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        for service in SERVICES:
            yield from self._rejects(service)
        yield "COMMIT"
        yield "*nat"
        for chain in ("PREROUTING", "OUTPUT", "POSTROUTING"):
            yield f":KUBE-{chain} -"
            yield f"-I {chain} -j KUBE-{chain}"
        yield f"-A KUBE-POSTROUTING -m mark --mark {_MARK} -j MASQUERADE --random-fully"
        for service in SERVICES:
            for protocol in _PROTOCOLS:
                yield from self._chains(service, protocol)
                yield from self._frontends(service, protocol)
        yield from self._host_port()
        yield "COMMIT"

    def _ways(self, service: Service) -> Iterator[tuple[str, str]]:
        """How a Service's addresses are matched, and the kind of each."""
        given = addresses_of(service.name)
        yield f"-d {self.ips[service.name]} {{}} --dport {PORT}", "cluster"
        yield f"-d {given.external[self.family]} {{}} --dport {PORT}", "external"
        yield f"-d {given.balancer[self.family]} {{}} --dport {PORT}", "balancer"
        yield f"-m addrtype --dst-type LOCAL {{}} --dport {given.node_port}", "external"

    def _local(self, service: Service) -> list[str]:
        on_node = {pod.name for pod in self.layout.pods_of(self.node.name)} | {self.node.name}
        return [name for name in service.backends if name in on_node]

    def _rejects(self, service: Service) -> Iterator[str]:
        """What kube-proxy refuses or drops in the filter table."""
        for protocol in _PROTOCOLS:
            proto = f"-p {protocol} -m {protocol}"
            for way, kind in self._ways(service):
                verdict = self._verdict(service, kind)
                rule = f"-m conntrack --ctstate NEW {way.format(proto)} -j {verdict}"
                for chain in ("FORWARD", "OUTPUT", "INPUT") if verdict else ():
                    yield f"-A KUBE-{chain} {rule}"

    def _verdict(self, service: Service, kind: str) -> str:
        if not service.backends:
            return "REJECT"
        policy = "internalTrafficPolicy" if kind == "cluster" else "externalTrafficPolicy"
        lonely = policy in service.spec and not self._local(service)
        return "DROP" if lonely or self._is_closed(service, kind) else ""

    @staticmethod
    def _is_closed(service: Service, kind: str) -> bool:
        return kind == "balancer" and service.name == "closed"

    def _chains(self, service: Service, protocol: str) -> Iterator[str]:
        """Chains that choose a backend: among all, and among those of the node."""
        name = f"{service.name}-{protocol}"
        proto = f"-p {protocol} -m {protocol}"
        for kind, backends in (("SVC", list(service.backends)), ("SVL", self._local(service))):
            yield f":{kind}-{name} -"
            for left, each in zip(range(len(backends), 0, -1), backends):
                address = self.layout.addresses(each)[self.family]
                chance = f"-m statistic --mode random --probability {1 / left:.8f}"
                to = f"[{address}]:{BACKEND_PORT}" if self.family else f"{address}:{BACKEND_PORT}"
                yield f":{kind}-{name}-{each} -"
                yield f"-A {kind}-{name} {chance} -j {kind}-{name}-{each}"
                yield f"-A {kind}-{name}-{each} -s {address} -j MARK --set-xmark {_MARK}"
                yield f"-A {kind}-{name}-{each} {proto} -j DNAT --to-destination {to}"

    def _frontends(self, service: Service, protocol: str) -> Iterator[str]:
        """Who is sent to which chain, and whose source is masqueraded."""
        name = f"{service.name}-{protocol}"
        proto = f"-p {protocol} -m {protocol}"
        for way, kind in self._ways(service):
            if not service.backends or self._is_closed(service, kind):
                continue
            match = way.format(proto)
            for chain in ("PREROUTING", "OUTPUT"):
                head = f"-A KUBE-{chain} {match}"
                mark = f"-j MARK --set-xmark {_MARK}"
                if kind == "cluster":
                    yield f"{head} ! -s {self.pods} {mark}"
                    local = "internalTrafficPolicy" in service.spec
                    yield f"{head} -j {'SVL' if local else 'SVC'}-{name}"
                elif "externalTrafficPolicy" in service.spec:
                    yield f"{head} -s {self.pods} -j SVC-{name}"
                    yield f"{head} -m addrtype --src-type LOCAL {mark}"
                    yield f"{head} -m addrtype --src-type LOCAL -j SVC-{name}"
                    yield f"{head} -j SVL-{name}"
                else:
                    yield f"{head} {mark}"
                    yield f"{head} -j SVC-{name}"

    def _host_port(self) -> Iterator[str]:
        address = self.layout.addresses("web-1")[self.family]
        to = f"[{address}]:{BACKEND_PORT}" if self.family else f"{address}:{BACKEND_PORT}"
        if self.node.name == "node1":
            for protocol in _PROTOCOLS:
                for chain in ("PREROUTING", "OUTPUT"):
                    yield (
                        f"-A KUBE-{chain} -p {protocol} -m {protocol} --dport {HOST_PORT}"
                        f" -m addrtype --dst-type LOCAL -j DNAT --to-destination {to}"
                    )
