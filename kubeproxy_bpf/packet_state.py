# SPDX-License-Identifier: Apache-2.0
"""What the loaded packet programs are told of this node, and what is learned from their maps.

Joins the node's entry and the sweep of the flow table; where the programs stand is the business of
``packets``, what they count for single services that of ``service_counts``. Built and run by
``app``; where the kernel refused the packet programs it knows nothing and does nothing.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

from kubeproxy_bpf.dataplane.flows import FlowTable
from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.dataplane.node import NodeFacts, NodeMap
from kubeproxy_bpf.dataplane.program import Programmer
from kubeproxy_bpf.dataplane.sweep import Sweeper
from kubeproxy_bpf.packets import PacketPath
from kubeproxy_bpf.serve.flows import FlowReading


class NoPacketState:
    """There are no packet programs."""

    def node_known(self, facts: NodeFacts) -> None:
        """Nobody asks."""

    async def run(self) -> NoReturn:
        """Nothing to do."""
        while True:
            await asyncio.Event().wait()

    def reading(self) -> FlowReading:
        """No table, no flows."""
        return FlowReading()


class PacketState(NoPacketState):
    """The maps of the packet path beside those that the writer fills."""

    def __init__(self, datapath: Datapath, programmer: Programmer, at_work: asyncio.Event) -> None:
        """``at_work`` is set when the programs are: flows may come to the table right before."""
        self._at_work = at_work
        maps, btf = datapath.maps, datapath.btf
        self._node = NodeMap(maps["kpb_node"], btf)
        self._sweeper = Sweeper(
            FlowTable(maps["kpb_flows"], btf), lambda: programmer.lingering, programmer.forget
        )

    def node_known(self, facts: NodeFacts) -> None:
        """Who this node is; told before the programs come to work, and after each change."""
        self._node.write(facts)

    async def run(self) -> NoReturn:
        """Sweep the flow table for ever; not before all that an earlier process had is in it, as
        addresses go to which no flow leads."""
        await self._at_work.wait()
        await self._sweeper.run()

    def reading(self) -> FlowReading:
        """The state of the moment."""
        return FlowReading(self._sweeper.entries, self._sweeper.capacity, self._sweeper.removed)


def packet_state(
    packets: PacketPath | None, programmer: Programmer, at_work: asyncio.Event
) -> NoPacketState:
    """The state of the programs that are loaded, if there are any."""
    if packets is None:
        return NoPacketState()
    return PacketState(packets.datapath, programmer, at_work)
