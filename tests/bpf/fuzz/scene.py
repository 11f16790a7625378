# SPDX-License-Identifier: Apache-2.0
"""The node under fire: Services of every kind, all programs at all devices, packets for them."""

from __future__ import annotations

import struct
from random import Random
from typing import Iterator

from kubeproxy_bpf.dataplane.flows import Flow, Tuple
from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.plan.records import FrontendFlags, RecordFlags
from tests.bpf.packet.node import (
    FAR_POD,
    LOCAL_POD,
    MAC,
    NARROW_POD,
    NODE,
    POD,
    REMOTE_POD,
    TUNNEL,
    UPLINK,
    UPLINK_SECOND,
    Node,
)
from tests.bpf.packet.world import (
    CLUSTER_IP,
    EXTERNAL_IP,
    EXTERNAL_LOCAL,
    HOST_PORT,
    LOAD_BALANCER,
    NODE_PORT,
    PacketWorld,
)

from . import craft
from .canary import CLIENT
from .corpus import (
    BALANCERS,
    EMPTY,
    EXTERNALS,
    HOSTED,
    SERVED,
    VIPS,
    corpus,
    errors,
    openers,
)
from .craft import ACK, ETHERNET_BYTES, FIN, RST, SCTP, TCP, UDP, Ends, packed, packet
from .driver import LONGEST, Trial
from .mutation import mutate

_PLACES = {
    "kpb_tc_ingress": (UPLINK, UPLINK_SECOND, POD, "lo"),
    "kpb_tc_egress": (UPLINK, UPLINK_SECOND, POD, "lo"),
    "kpb_xdp": (UPLINK, UPLINK_SECOND),
    "kpb_tc_ingress_l3": (TUNNEL,),
    "kpb_tc_egress_l3": (TUNNEL,),
}
MAC_OF_LO = "00:00:00:00:00:00"
_SAMPLE = 24
Placed = dict[tuple[str, str], Trial]
"""By program and device."""


def trials(datapath: Datapath, node: Node) -> Placed:
    """Every program at every device where it may stand."""
    return {
        (name, device): Trial(
            datapath.programs[name], node.ifindex[device], 0 if device == TUNNEL else ETHERNET_BYTES
        )
        for name, devices in _PLACES.items()
        for device in devices
    }


def serve(world: PacketWorld) -> None:
    """Services of all kinds, of all protocols and both families."""
    world.node(service_cidrs=["10.96.0.0/16", "fd00:10:96::/112"])
    for family in (0, 1):
        pods = {"local": [LOCAL_POD[family]], "remote": [REMOTE_POD[family], FAR_POD[family]]}
        narrow = {"local": [LOCAL_POD[family]], "remote": [NARROW_POD[family]]}
        node, balancer, external = NODE[family], BALANCERS[family], EXTERNALS[family]
        ranges = {"frontend_flags": FrontendFlags.SOURCE_RANGES}
        consistent = {"flags": RecordFlags.HAS_ENDPOINTS | RecordFlags.CONSISTENT}
        for number in (TCP, UDP, SCTP):
            front = (NODE_PORT, node, SERVED), (CLUSTER_IP, VIPS[family], 80)
            world.service(*front, **pods, protocol=number)
            front = ((LOAD_BALANCER, balancer, 80),)
            world.service(*front, **narrow, protocol=number, flags=EXTERNAL_LOCAL, affinity_s=60)
            index = world.service(
                (EXTERNAL_IP, external, 80), **narrow, protocol=number, **ranges, **consistent
            )
            world.source_range(index, "203.0.113.0/24" if family == 0 else "2001:db8:86dd::/48")
            world.service((NODE_PORT, node, EMPTY), protocol=number, flags=0)
            world.service((HOST_PORT, node, HOSTED), local=[LOCAL_POD[family]], protocol=number)


class Fire:
    """An endless supply of packets: known ones, those of live flows, and noise."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self._corpus = corpus()
        self._live: list[bytes] = []

    def aim(self, flows: dict[Tuple, Flow]) -> None:
        """Shoot at some of these flows from now on; the canaries are spared."""
        spared = {_packed_as_key(address) for address in CLIENT}
        ends = [key for key, flow in flows.items() if not spared & {*key[:2], *flow[2:4]}]
        chosen = self._dice.sample(sorted(ends), min(_SAMPLE, len(ends)))
        self._live = [content for key in chosen for content in _packets_of(key)]

    def packet(self) -> bytes:
        """An IP packet, or what is none at all."""
        dice = self._dice
        kind = dice.random()
        if self._live and kind < 0.3:
            return dice.choice(self._live)
        if kind < 0.95:
            return dice.choice(self._corpus)
        length = dice.choice((dice.randrange(0, 128), dice.randrange(0, LONGEST)))
        noise = dice.randbytes(length)
        if kind < 0.975:  # noise in a body that looks well
            at = dice.choice((20, 40))
            noise = dice.choice(self._corpus)[:at] + noise
        return noise

    def shot(self, device: str, header: int) -> bytes:
        """What comes to a device, mutated; ``header`` is the length of its link header."""
        content = self.packet()
        if header:
            content = craft.frame(content or b"\0", MAC.get(device, MAC_OF_LO))
        return mutate(self._dice, content, header, LONGEST)


def _packets_of(key: Tuple) -> Iterator[bytes]:
    cut = 12 if key.source.startswith(_packed_as_key("0.0.0.0")[:12]) else 0
    if len(key.destination[cut:]) != len(key.source[cut:]):
        return
    ends = Ends(key.source[cut:], key.source_port, key.destination[cut:], key.destination_port)
    yield from openers(ends)
    for flags in (ACK, FIN | ACK, RST):
        yield packet(ends, TCP, craft.tcp(ends, flags, b"data"))
    yield packet(ends, UDP, craft.udp(ends, bytes(1500)))
    yield from errors(ends.reply())


def _packed_as_key(address: str) -> bytes:
    raw = packed(address)
    return raw if len(raw) == 16 else struct.pack("!QHH", 0, 0, 0xFFFF) + raw
