# SPDX-License-Identifier: Apache-2.0
"""Straight into local pods (--bpf-redirect-peer): netfilter sees neither direction."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
from typing import Iterator

import pytest

from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.dataplane.settings import ConfigFlags, Settings
from kubeproxy_bpf.libbpf import AttachType, Link

from . import frames
from .conftest import DETECTOR, settings
from .conversation import Conversation
from .frames import Ends
from .hooks import Hooks, Verdict
from .node import LOCAL_POD, MAC, NODE, OUTSIDE, POD, UPLINK, Node, ip_batch
from .world import DEVICE_ETHERNET, DEVICE_POD, EXTERNAL_LOCAL, NODE_PORT, PacketWorld

pytestmark = pytest.mark.root

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
TAP, MACHINE = "kpbttap", "10.247.0.10"
TAP_MAC = "02:00:00:00:66:01"

NUMBER = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP}
families = pytest.mark.parametrize("family", (0, 1), ids=("ipv4", "ipv6"))
both = pytest.mark.parametrize("protocol", NUMBER)


@pytest.fixture
def config() -> Settings:
    return settings(DETECTOR | ConfigFlags.REDIRECT_PEER)


@families
@both
@pytest.mark.parametrize("masqueraded", (False, True))
def test_into_a_pod(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str, masqueraded: bool
) -> None:
    """Both directions are translated at ingress and redirected, with and without masquerading."""
    world.service(
        (NODE_PORT, NODE[family], 30080),
        local=[LOCAL_POD[family]],
        protocol=NUMBER[protocol],
        flags=None if masqueraded else EXTERNAL_LOCAL,
    )
    outer = Ends(OUTSIDE[family], 40000, NODE[family], 30080)
    own = NODE[family] if masqueraded else ""
    backend = (LOCAL_POD[family], 8080)
    talk = Conversation(hooks, protocol, outer, backend, UPLINK, POD, own, direct=True)
    for _ in range(2):
        talk.ask()
        talk.answer()
    assert len(world.flows()) == 2


@families
def test_a_pods_own_packets(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """What a pod sends on its own goes on untouched, to any address."""
    data = frames.frame(
        frames.packet("TCP", Ends(LOCAL_POD[family], 8080, OUTSIDE[family], 40000)), MAC[POD]
    )
    assert hooks.ingress(POD, data) == (Verdict.UNSPEC, data)
    assert not world.flows()


@pytest.fixture
def machine(node: Node, world: PacketWorld, datapath: Datapath) -> Iterator[int]:
    """A virtual machine behind a tap of its own, and the program at the uplink; what the machine
    receives can be read."""
    lines = (
        f"link set {TAP} address {TAP_MAC} up",
        f"route add {MACHINE}/32 dev {TAP}",
        f"neighbour add {MACHINE} lladdr 02:00:00:00:66:02 dev {TAP}",
    )
    with node.inside():
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", TAP.encode(), IFF_TAP | IFF_NO_PI))
        ip_batch(iter(lines))
        world.ifindex[TAP] = socket.if_nametoindex(TAP)
        program = datapath.programs["kpb_tc_ingress"].fd
        link = Link.create(program, socket.if_nametoindex(UPLINK), AttachType.TCX_INGRESS)
    world.device(TAP, DEVICE_ETHERNET | DEVICE_POD, ("0.0.0.0", "::"))
    yield tap
    world.no_device(TAP)
    link.close()
    os.close(tap)


def test_a_machine_behind_a_tap(world: PacketWorld, node: Node, machine: int) -> None:
    """It has no other end that could be entered directly: the kernel would drop what is sent
    there. So its frames are sent."""
    world.service((NODE_PORT, NODE[0], 30080), local=[MACHINE], flags=EXTERNAL_LOCAL)
    content = frames.packet("TCP", Ends(OUTSIDE[0], 40000, NODE[0], 30080))
    with node.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((f"{UPLINK}p", 0))
        wire.send(frames.frame(content, MAC[UPLINK]))
    assert frames.ends_of(frames.read(received(machine))).destination == MACHINE


def received(tap: int) -> bytes:
    """The first IPv4 frame; beside it the kernel looks for neighbours."""
    while select.select([tap], [], [], 30)[0]:
        frame = os.read(tap, 2000)
        if frame[12:14] == b"\x08\x00":
            return frame
    pytest.fail("nothing arrived")
