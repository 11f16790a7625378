# SPDX-License-Identifier: Apache-2.0
"""Two processors get packets of one new flow at the same moment."""

from __future__ import annotations

import mmap
import os
import socket
import struct
from typing import Iterator

import pytest

from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.libbpf import AttachType, Link

from . import frames
from .frames import Ends
from .node import LOCAL_POD, NODE, POD, Node, ip_batch
from .scene import SERVED
from .world import DEVICE_ETHERNET, NODE_PORT, PacketWorld

pytestmark = pytest.mark.root

DEVICE, DEVICE_MAC = "kpbttwo", "02:00:00:00:55:01"
"""Without XDP, so that a packet is received by the processor that sent it."""
CLIENTS = ("198.18.0.1/24", "198.18.0.50")
FLOWS = 200
SO_RCVBUFFORCE = 33


def send_in_step(frames_: list[bytes], turns: mmap.mmap, place: int) -> None:
    """Send each frame at the moment when the other process sends the same one."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[place]})
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((f"{DEVICE}p", 0))
        for turn, frame in enumerate(frames_, 1):
            struct.pack_into("=I", turns, 64 * place, turn)
            while struct.unpack_from("=I", turns, 64 - 64 * place)[0] < turn:
                pass
            wire.send(frame)


def from_two_processors(frames_: list[bytes]) -> None:
    turns = mmap.mmap(-1, mmap.PAGESIZE)
    children = []
    for place in range(2):
        child = os.fork()
        if not child:
            status = 1
            try:
                send_in_step(frames_, turns, place)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


@pytest.fixture
def attached(node: Node, world: PacketWorld, datapath: Datapath) -> Iterator[None]:
    """A device of clients, and the programs at work on it and on the pod's."""
    lines = (
        f"link add {DEVICE} address {DEVICE_MAC} type veth peer name {DEVICE}p",
        f"link set {DEVICE}p up",
        f"link set {DEVICE} up",
        f"address add {CLIENTS[0]} dev {DEVICE}",
    )
    programs = datapath.programs
    with node.inside():
        ip_batch(iter(lines))
        world.ifindex[DEVICE], pod = map(socket.if_nametoindex, (DEVICE, POD))
        links = (
            Link.create(
                programs["kpb_tc_ingress"].fd, world.ifindex[DEVICE], AttachType.TCX_INGRESS
            ),
            Link.create(programs["kpb_tc_egress"].fd, pod, AttachType.TCX_EGRESS),
        )
    world.device(DEVICE, DEVICE_ETHERNET, ("0.0.0.0", "::"))
    yield
    world.no_device(DEVICE)
    for link in links:
        link.close()
    with node.inside():
        ip_batch(iter((f"link del {DEVICE}",)))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor")
@pytest.mark.usefixtures("attached")
def test_no_datagram_leaves_half_translated(world: PacketWorld, node: Node) -> None:
    """One of the two makes the flow, and until all of it is there the other cannot follow it: what
    is masqueraded comes in the node's name, from one port."""
    world.service((NODE_PORT, NODE[0], SERVED), local=[LOCAL_POD[0]], protocol=17)
    sent = [
        frames.frame(
            frames.packet("UDP", Ends(CLIENTS[1], 30000 + number, NODE[0], SERVED)), DEVICE_MAC
        )
        for number in range(FLOWS)
    ]
    with node.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as pod:
        pod.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        pod.bind((f"{POD}p", 0x0800))
        from_two_processors(sent)
        pod.setblocking(False)
        came = list(received(pod))
    assert {source for source, _port in came} == {NODE[0]}
    assert len({*came}) == FLOWS, "one port for each flow"


def received(wire: socket.socket) -> Iterator[tuple[str, int]]:
    """Address and port that each frame has come from."""
    while True:
        try:
            ends = frames.ends_of(frames.read(wire.recv(2000)))
        except BlockingIOError:
            return
        yield ends.source, ends.source_port
