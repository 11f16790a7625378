# SPDX-License-Identifier: Apache-2.0
"""The sum over a packet that the kernel holds while the programs change the packet.

Network cards hand it over with each packet, and the kernel makes one where it has verified the
outer checksum of a tunnel. A wrong one is found at the packet's end: "hw csum failure" in the
kernel's log, and all sums done again. Test-runs hold none, so these packets are real ones: they
come in a tunnel, pass the program at its device, and are looked at at the other end of a wire.
"""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.libbpf import AttachType, BpfObject, Link
from tests.compiling import compile_bpf

from .node import MAC, NODE, NODE_B, OUTSIDE, PEER_MAC, REMOTE_POD, UPLINK, Node, ip_batch
from .scene import NUMBER, PORT, SERVED
from .world import DEVICE_ETHERNET, NODE_PORT, PacketWorld

pytestmark = pytest.mark.root

TUNNEL, TUNNEL_MAC, VNI = "kpbtvx", "02:00:00:00:55:01", 7
PATIENCE_S = 30


class Seen(NamedTuple):
    """Packets that came out, those of them with a sum, and those whose sum is right."""

    packets: int
    held: int
    right: int


@pytest.fixture(scope="module")
def comparer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BpfObject]:
    source = Path(__file__).with_name("held_sum.bpf.c")
    built = compile_bpf(source, tmp_path_factory.mktemp("held") / "held_sum.o")
    with BpfObject.open(built) as made:
        made.load()
        yield made


@pytest.fixture
def enter(
    node: Node, world: PacketWorld, datapath: Datapath, comparer: BpfObject
) -> Iterator[Callable[[list[Any]], Seen]]:
    """Send packets through the tunnel, and tell what came out of the uplink's wire."""
    links = []
    with node.inside():
        ends = f"dstport 4789 local {NODE[0]} remote {NODE_B[0]} dev {UPLINK}"
        ip_batch(
            iter(
                (
                    f"link add {TUNNEL} address {TUNNEL_MAC} type vxlan id {VNI} {ends}",
                    f"link set {TUNNEL} addrgenmode none",  # nothing of its own on the wire
                    f"link set {TUNNEL} up",
                )
            )
        )
        index, wire = socket.if_nametoindex(TUNNEL), socket.if_nametoindex(f"{UPLINK}p")
        for fd, device in (
            (datapath.programs["kpb_tc_ingress"].fd, index),
            (comparer.programs["f_compare"].fd, wire),
        ):
            links.append(Link.create(fd, device, AttachType.TCX_INGRESS))
    world.ifindex[TUNNEL] = index
    world.device(TUNNEL, DEVICE_ETHERNET, ("0.0.0.0", "::"))
    seen = comparer.maps["f_seen"].map
    seen.update(bytes(4), bytes(12))

    def send(inner: list[Any]) -> Seen:
        with node.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire_end:
            wire_end.bind((f"{UPLINK}p", 0))
            for each in inner:
                wire_end.send(bytes(_wrapped(each)))
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = Seen(*struct.unpack("=3I", seen.lookup(bytes(4)) or bytes(12)))
            if found.packets >= len(inner) or time.monotonic() > deadline:
                return found
            time.sleep(0.01)

    try:
        yield send
    finally:
        world.no_device(TUNNEL)
        for link in links:
            link.close()
        with node.inside():
            ip_batch(iter((f"link del {TUNNEL}",)))


def _wrapped(inner: Any) -> Any:
    outer = Ether(src=PEER_MAC[NODE_B], dst=MAC[UPLINK]) / IP(src=NODE_B[0], dst=NODE[0])
    tunnel = UDP(sport=5555, dport=4789) / VXLAN(vni=VNI, flags="Instance")
    return outer / tunnel / Ether(src="02:00:00:00:55:02", dst=TUNNEL_MAC) / inner


def client(family: int) -> Any:
    if family:
        return IPv6(src=OUTSIDE[1], dst=NODE[1], hlim=64)
    return IP(src=OUTSIDE[0], dst=NODE[0], ttl=64)


@pytest.mark.parametrize("family", (0, 1), ids=("ipv4", "ipv6"))
@pytest.mark.parametrize("protocol", ("TCP", "UDP"))
def test_it_is_that_of_the_bytes(
    enter: Callable[[list[Any]], Seen], world: PacketWorld, family: int, protocol: str
) -> None:
    """Addresses, ports and one hop less: the sum changes with them, or by nothing."""
    remote = [REMOTE_POD[family]]
    number = NUMBER[protocol]
    world.service((NODE_PORT, NODE[family], SERVED), remote=remote, port=PORT, protocol=number)
    ports = {"sport": 40000, "dport": SERVED}
    transport = TCP(flags="S", **ports) if protocol == "TCP" else UDP(**ports)
    assert enter([client(family) / transport / Raw(b"seven by")]) == Seen(1, 1, 1)


def test_also_of_fragments(enter: Callable[[list[Any]], Seen], world: PacketWorld) -> None:
    """A later one has no checksum that balances new addresses: its sum takes part in that of the
    datagram that is put together."""
    world.service((NODE_PORT, NODE[1], SERVED), remote=[REMOTE_POD[1]], port=PORT, protocol=17)
    first = UDP(sport=40000, dport=SERVED, len=52, chksum=0x1234) / Raw(b"x" * 24)
    parts = [
        client(1) / IPv6ExtHdrFragment(nh=17, id=5, offset=0, m=1) / first,
        client(1) / IPv6ExtHdrFragment(nh=17, id=5, offset=4, m=0) / Raw(b"y" * 20),
    ]
    assert enter(parts) == Seen(2, 2, 2)
