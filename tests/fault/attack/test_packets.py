# SPDX-License-Identifier: Apache-2.0
"""Packets from the wire that claim what cannot be: nothing is opened, nothing comes back."""

from __future__ import annotations

from typing import Iterator

import pytest

from kubeproxy_bpf.libbpf import BpfMap
from tests.bpf.fuzz import craft
from tests.bpf.fuzz.craft import ACK, RST, SYN, TCP, UDP, Ends, packed, packet
from tests.bpf.fuzz.reading import Reading
from tests.bpf.world import mapped
from tests.fault.load.stage import Stage

from .wire import Attacker

pytestmark = pytest.mark.root

STRANGER = ("203.0.113.66", "2001:db8:113::66")
CLIENT_PORT = 54321
LOCALNET = "/proc/sys/net/ipv4/conf/all/route_localnet"
Ports = tuple[int, int]
_SYN_ACK = SYN | ACK


def openers(ends: Ends, udp_port: int) -> Iterator[bytes]:
    yield packet(ends, TCP, craft.tcp(ends))
    datagram = ends._replace(destination_port=udp_port)
    yield packet(datagram, UDP, craft.udp(datagram, b"name\n"))


def is_served(reading: Reading, port: int) -> bool:
    """An answer of a backend to this client port: neither a reset nor an ICMP error."""
    if reading.ports is None or reading.ports[1] != port:
        return False
    # A handshake has options, a reset has none.
    return reading.protocol == UDP or reading.end - reading.payload > 20


def flow_keys(stage: Stage) -> set[bytes]:
    (pinned,) = stage.sandbox.pin_path("node1").glob("*/kpb_flows")
    with BpfMap.open_pinned(pinned) as flows:
        return set(flows.keys())


def flows_of(stage: Stage, address: str) -> list[bytes]:
    """The flows in which an address speaks or is spoken to."""
    raw = mapped(address)
    return [key for key in flow_keys(stage) if raw in (key[:16], key[16:32])]


def test_the_attacker_gets_answers(stage: Stage, attacker: Attacker, node_ports: Ports) -> None:
    """An honest packet of the same attacker is served: silence means something."""
    for family in (0, 1):
        node = packed(attacker.node[family])
        ends = Ends(packed(STRANGER[family]), CLIENT_PORT, node, node_ports[0])
        found = attacker.exchange(openers(ends, node_ports[1]))
        served = {reading.protocol for reading in found if is_served(reading, CLIENT_PORT)}
        assert served == {TCP, UDP}
        assert flows_of(stage, STRANGER[family])


def set_route_localnet(stage: Stage, value: int) -> None:
    done = stage.sandbox.exec("node1", ["sh", "-c", f"echo {value} >{LOCALNET}"])
    assert not done.returncode, done.stderr


@pytest.mark.parametrize("localnet", (0, 1))
def test_loopback_is_not_reached_from_outside(
    stage: Stage, attacker: Attacker, node_ports: Ports, localnet: int
) -> None:
    """127/8 and ::1 serve node ports to the host alone, also where route_localnet is set."""
    set_route_localnet(stage, localnet)
    try:
        for family, loopbacks in ((0, ("127.0.0.1", "127.1.2.3")), (1, ("::1",))):
            for loopback in loopbacks:
                for source in (STRANGER[family], loopback):
                    port = CLIENT_PORT + 1
                    ends = Ends(packed(source), port, packed(loopback), node_ports[0])
                    packets = openers(ends, node_ports[1])
                    seen = attacker.exchange(packets, 0.2)
                    assert not [reading for reading in seen if is_served(reading, port)]
                assert not flows_of(stage, loopback)
    finally:
        set_route_localnet(stage, 0)


def test_martian_sources_open_nothing(stage: Stage, attacker: Attacker, node_ports: Ports) -> None:
    """Loopback, unspecified, multicast, broadcast, the node's own, the destination itself."""
    families = (
        ("127.0.0.1", "0.0.0.0", "224.0.0.5", "255.255.255.255", attacker.node.v4),
        ("::1", "::", "ff02::5", attacker.node.v6),
    )
    for family, sources in enumerate(families):
        node = packed(attacker.node[family])
        for source in sources:
            for port in (CLIENT_PORT + 2, node_ports[0]):
                ends = Ends(packed(source), port, node, node_ports[0])
                attacker.exchange(openers(ends, node_ports[1]), 0.02)
            if source != attacker.node[family]:
                assert not flows_of(stage, source), source
        own = mapped(attacker.node[family])
        between = [key for key in flow_keys(stage) if (key[:16], key[16:32]) == (own, own)]
        assert not between


def test_answers_that_match_no_flow(stage: Stage, attacker: Attacker, node_ports: Ports) -> None:
    """A forged answer of a backend is reflected to nobody and makes no flow."""
    pods = [pod for pod in stage.sandbox.layout.pods if pod.serves]
    before = flow_keys(stage)
    forged = []
    for family in (0, 1):
        node = packed(attacker.node[family])
        for pod in pods:
            for port in (10000, 20123, node_ports[0] + 1):
                ends = Ends(packed(pod.addresses[family]), 8080, node, port)
                forged += [packet(ends, TCP, craft.tcp(ends, flags)) for flags in (_SYN_ACK, RST)]
                forged.append(packet(ends, UDP, craft.udp(ends)))
    attacker.exchange(forged, 0.2)
    pairs = {(mapped(pod.addresses[f])) for pod in pods for f in (0, 1)}
    ports = {(10000).to_bytes(2, "big"), (20123).to_bytes(2, "big")}
    new = [key for key in flow_keys(stage) - before if key[:16] in pairs and key[34:36] in ports]
    assert not new
